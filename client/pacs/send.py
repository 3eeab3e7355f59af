"""`client send`: hands predicted doses to a planning system or archive (C-STORE). Needs the extra ``intake``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import RTDoseStorage

from client.dicom.write import LABEL
from client.pacs.link import Peer, associated
from shared_model.core.errors import FedKT3DError, InputError


def send(paths: Sequence[Path], peer: Peer) -> tuple[str, ...]:
    """Send RTDOSE files that this software wrote, and no others: a plan's own dose is not ours to send.

    Returns a note for each file that was stored with a warning. Raises InputError for any other file, and then sends
    nothing. Raises FedKT3DError if the peer cannot be reached or refuses a file; the files before it have arrived.
    """
    try:
        from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS as STATUSES
        from pynetdicom.status import code_to_category
    except ImportError as error:
        raise InputError("send: pynetdicom is not installed; pip install 'fedkt3d[intake]'") from error
    datasets = [_ours(path) for path in paths]
    notes = []
    with associated(peer, [RTDoseStorage], "send") as link:
        for path, dataset in zip(paths, datasets, strict=True):
            status = link.send_c_store(dataset).get("Status", None)
            if status in STATUSES and code_to_category(status) == "Warning":  # it was stored: PS3.4 Table B.2-1
                notes.append(f"{path.name}: stored with a warning (status 0x{status:04X}): {STATUSES[status][1]}")
            elif status != 0:
                code = "no answer" if status is None else f"status 0x{status:04X}"
                raise FedKT3DError(f"send: {path.name} was refused ({code})")
    return tuple(notes)


def _ours(path: Path) -> Dataset:
    try:
        dataset = dcmread(path)
    except (OSError, InvalidDicomError) as error:
        raise InputError(f"{path}: cannot be read as DICOM; expected a dose.dcm of `client predict`") from error
    if dataset.get("SOPClassUID") != RTDoseStorage or LABEL not in str(dataset.get("SeriesDescription", "")):
        raise InputError(f"{path}: not a dose that `client predict` wrote; nothing was sent")
    return dataset

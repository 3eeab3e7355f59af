"""`client send`: hands predicted doses to a planning system or archive (C-STORE). Needs the extra ``intake``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import RTDoseStorage

from client.dicom.write import LABEL
from shared_model.core.errors import FedKT3DError, InputError

SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Peer:
    """The system to send to, and this node's own AE title."""

    ae_title: str
    host: str
    port: int
    own_title: str = "FEDKT3D"

    @classmethod
    def parse(cls, text: str, own_title: str = "FEDKT3D") -> Peer:
        """Read AE@HOST:PORT. Raises InputError."""
        title, _, address = text.partition("@")
        host, _, port = address.rpartition(":")
        if not title or not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise InputError(f"--to {text}: expected AE@HOST:PORT, such as TPS@10.0.0.5:104")
        return cls(ae_title=title, host=host, port=int(port), own_title=own_title)


def send(paths: Sequence[Path], peer: Peer) -> tuple[str, ...]:
    """Send RTDOSE files that this software wrote, and no others: a plan's own dose is not ours to send.

    Returns a note for each file that was stored with a warning. Raises InputError for any other file, and then sends
    nothing. Raises FedKT3DError if the peer cannot be reached or refuses a file; the files before it have arrived.
    """
    try:
        from pynetdicom import AE
        from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS as STATUSES
        from pynetdicom.status import code_to_category
    except ImportError as error:
        raise InputError("send: pynetdicom is not installed; pip install 'fedkt3d[intake]'") from error
    datasets = [_ours(path) for path in paths]
    entity = AE(ae_title=peer.own_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = SECONDS
    entity.add_requested_context(RTDoseStorage)
    link = entity.associate(peer.host, peer.port, ae_title=peer.ae_title)
    if not link.is_established:
        raise FedKT3DError(f"send: {peer.host}:{peer.port} refuses us as {peer.own_title}; is it allowed there?")
    notes = []
    try:
        for path, dataset in zip(paths, datasets, strict=True):
            status = link.send_c_store(dataset).get("Status", None)
            if status in STATUSES and code_to_category(status) == "Warning":  # it was stored: PS3.4 Table B.2-1
                notes.append(f"{path.name}: stored with a warning (status 0x{status:04X}): {STATUSES[status][1]}")
            elif status != 0:
                code = "no answer" if status is None else f"status 0x{status:04X}"
                raise FedKT3DError(f"send: {path.name} was refused ({code})")
    finally:
        link.release()
    return tuple(notes)


def _ours(path: Path) -> Dataset:
    try:
        dataset = dcmread(path)
    except (OSError, InvalidDicomError) as error:
        raise InputError(f"{path}: cannot be read as DICOM; expected a dose.dcm of `client predict`") from error
    if dataset.get("SOPClassUID") != RTDoseStorage or LABEL not in str(dataset.get("SeriesDescription", "")):
        raise InputError(f"{path}: not a dose that `client predict` wrote; nothing was sent")
    return dataset

"""`client retrieve`: finds a patient's studies in an archive (C-FIND) and has them sent here (C-MOVE), PS3.4 Annex C.

The archive sends to the AE title of this node, which it must know with its address. What comes is received as by
`client receive`. Series are moved one by one, and only those of CT and RT objects: an archive counts an image of
another kind, which this node does not take, as a failure. Needs the extra ``intake`` (pynetdicom).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset

from client.pacs.link import Peer, associated
from client.pacs.receive import Intake, Receiver, Store
from shared_model.core.errors import FedKT3DError, InputError

FIND, MOVE = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.2"  # Study Root
MODALITIES = ("CT", "RTSTRUCT", "RTPLAN", "RTDOSE")
# Most studies of a patient and series of a study.
MOST_ANSWERS = 1000
# An archive may have to load a study from slow storage before it answers.
SECONDS = 300.0
_PENDING = (0xFF00, 0xFF01)
_NO_DESTINATION = 0xA801
_UNKNOWN = -1


def retrieve(
    peer: Peer, intake: Intake, *, patient_id: str = "", study_uid: str = "", seconds: float = SECONDS
) -> tuple[int, Store]:
    """Fetch the studies of a patient, or one study, into ``intake``'s folder; returns how many, and the store.

    An answer of the archive may take ``seconds``. Raises InputError, without the requested id, if there is no such
    study, if an id could mean several, or if the folder is full. Raises FedKT3DError if the archive cannot be reached,
    refuses, or does not send every instance to this node; what has come stays.
    """
    if bool(patient_id) == bool(study_uid):
        raise InputError("retrieve: expected --patient-id or --study-uid")
    if any(sign in patient_id + study_uid for sign in "*?\\"):
        raise InputError("retrieve: expected one id, without the signs * ? \\ that stand for several")
    with Receiver(intake) as receiver, associated(peer, [FIND, MOVE], "retrieve", seconds) as link:
        studies = [study_uid] if study_uid else _studies(link, patient_id)
        series = [(study, one) for study in studies for one in _series(link, study)]
        if not series:
            what = "CT or RT objects of that study" if studies else "study of that patient"
            raise InputError(f"retrieve: the archive has no {what}")
        moved = [_move(link, study, one, intake.ae_title) for study, one in series]
    _check_all_came(moved, receiver.store, intake.ae_title)
    return len({study for study, _ in series}), receiver.store


@dataclass(frozen=True, kw_only=True)
class _Moved:
    """The archive's word on one C-MOVE: its last status and its counts of instances, _UNKNOWN where it has none."""

    status: int | None
    sent: int
    failed: int


def _query(level: str, **elements: str) -> Dataset:
    asked = Dataset()
    asked.SpecificCharacterSet = "ISO_IR 192"
    asked.QueryRetrieveLevel = level
    for keyword, content in elements.items():
        setattr(asked, keyword, content)
    return asked


def _answers(link: Any, asked: Dataset) -> Iterator[Dataset]:
    """The archive's answers to a query, none of them empty. Raises as ``retrieve``."""
    given = 0
    for status, answer in link.send_c_find(asked, FIND):
        code = status.get("Status", None)
        if code in _PENDING and answer is not None:
            given += 1
            if given > MOST_ANSWERS:
                raise InputError(f"retrieve: the archive lists more than {MOST_ANSWERS} answers; use --study-uid")
            yield answer
        elif code != 0:
            raise FedKT3DError(f"retrieve: the archive refused the query ({_code(code)}); does it allow C-FIND here?")


def _studies(link: Any, patient_id: str) -> list[str]:
    """UIDs of all studies of a patient. Answers for other patients, of an archive that ignores the id, are skipped."""
    answers = _answers(link, _query("STUDY", PatientID=patient_id, StudyInstanceUID=""))
    found = {
        str(answer.get("StudyInstanceUID", "")): None
        for answer in answers
        if str(answer.get("PatientID", patient_id)).strip() == patient_id.strip()
    }
    return [uid for uid in found if uid]


def _series(link: Any, study: str) -> list[str]:
    """UIDs of a study's series of CT and RT objects, and of those whose modality the archive does not tell."""
    answers = _answers(link, _query("SERIES", StudyInstanceUID=study, SeriesInstanceUID="", Modality=""))
    found = {
        str(answer.get("SeriesInstanceUID", "")): None
        for answer in answers
        if str(answer.get("StudyInstanceUID", study)) == study
        and (str(answer.get("Modality", "") or "").strip() or "CT") in MODALITIES
    }
    return [uid for uid in found if uid]


def _move(link: Any, study: str, series: str, to: str) -> _Moved:
    """Have one series sent to the AE title ``to``. Raises FedKT3DError if the archive knows no such title."""
    last = Dataset()
    for last, _ in link.send_c_move(_query("SERIES", StudyInstanceUID=study, SeriesInstanceUID=series), to, MOVE):
        if last.get("Status", None) not in _PENDING:
            break
    status = last.get("Status", None)
    if status == _NO_DESTINATION:
        raise FedKT3DError(
            f"retrieve: the archive does not know {to} or cannot reach it; enter its AE title, address and port there"
        )
    if status is None:
        raise FedKT3DError("retrieve: the archive gives no answer any more; a study is incomplete; see --timeout")
    counts = [last.get(f"NumberOf{kind}Suboperations", None) for kind in ("Completed", "Warning", "Failed")]
    completed, warned, failed = (_UNKNOWN if n is None else int(n) for n in counts)
    sent = _UNKNOWN if completed == _UNKNOWN else completed + max(warned, 0)
    return _Moved(status=int(status), sent=sent, failed=max(failed, 0))


def _check_all_came(moved: list[_Moved], store: Store, to: str) -> None:
    """Raise where the archive's counts and what lies in the folder do not agree."""
    if store.refused:
        raise InputError("retrieve: the folder is full, by --quota-gb or by its disk; a study is incomplete")
    failed = sum(one.failed for one in moved)
    wrong = next((one.status for one in moved if one.status != 0), 0)
    if failed or wrong:
        raise FedKT3DError(
            f"retrieve: the archive did not send every instance ({_code(wrong)}, {failed} failed, {store.stored} came);"
            f" does it know {to}, can it reach this node at the address it has, and do both speak TLS or neither?"
        )
    sent = sum(max(one.sent, 0) for one in moved)
    if store.stored < sent or not store.stored:
        raise FedKT3DError(
            f"retrieve: the archive says that it sent {sent} instances, and {store.stored} came; is the address that it"
            " knows for this AE title this node's?"
        )


def _code(code: int | None) -> str:
    return "no answer" if code is None else f"status 0x{code:04X}"

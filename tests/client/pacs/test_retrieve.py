"""C-FIND and C-MOVE against archives of other habits: nothing of another patient comes, and nothing is missed silently.

The archives here are pynetdicom's own, over real associations; tests/e2e/test_archive_tls.py asks Orthanc.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from client.pacs import retrieve as retrieving
from client.pacs.link import Peer, Tls
from client.pacs.receive import Intake, Receiver
from client.pacs.retrieve import FIND, MOVE, retrieve
from client.pacs.send import send
from privacy.flower.processes import free_loopback_port
from shared_model.core.errors import FedKT3DError, InputError
from tests.builders.dicom_certificates import write_certificates
from tests.builders.small_study import write_small_study

pynetdicom = pytest.importorskip("pynetdicom", reason="pynetdicom is not installed (pip install 'fedkt3d[intake]')")


MR_SERIES = "1.2.826.0.1.3680043.6"


@dataclass
class Archive:
    """What an archive holds and how it behaves; ``moved`` are the levels and series that it was asked to move."""

    files: list[Path]
    ignores_patient: bool = False
    hides_modality: bool = False
    destination: tuple[str, int] | None = None
    hangs_up: bool = False
    services: tuple[str, ...] = (FIND, MOVE)
    moved: list[str] = field(default_factory=list)

    def find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        if self.hangs_up:
            event.assoc.abort()
            return
        asked = event.identifier
        for dataset in self._headers():
            if asked.QueryRetrieveLevel == "STUDY":
                if not self.ignores_patient and dataset.PatientID != asked.PatientID:
                    continue
            elif dataset.StudyInstanceUID != asked.StudyInstanceUID:
                continue
            answer = Dataset()
            for key in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Modality"):
                if key in asked and not (key == "Modality" and self.hides_modality):
                    setattr(answer, key, dataset.get(key))
            yield 0xFF00, answer

    def move(self, event: Any) -> Iterator[Any]:
        asked = event.identifier
        self.moved.append(str(asked.SeriesInstanceUID))
        if self.destination is None:
            yield None, None
            return
        found = [d for d in self._headers(pixels=True) if d.SeriesInstanceUID == asked.SeriesInstanceUID]
        yield "127.0.0.1", self.destination[1], {"ae_title": self.destination[0]}
        yield len(found)
        for dataset in found:
            yield 0xFF00, dataset

    def _headers(self, pixels: bool = False) -> list[Dataset]:
        return [pydicom.dcmread(path, stop_before_pixels=not pixels) for path in self.files]


@contextmanager
def listening(archive: Archive, title: str = "ARCHIVE") -> Iterator[Peer]:
    entity = pynetdicom.AE(ae_title=title)
    for kind in archive.services:
        entity.add_supported_context(kind)
    for kind in retrieving_kinds():
        entity.add_requested_context(kind)
    handlers = [(pynetdicom.evt.EVT_C_FIND, archive.find), (pynetdicom.evt.EVT_C_MOVE, archive.move)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield Peer(ae_title=title, host="127.0.0.1", port=server.server_address[1])
    finally:
        server.shutdown()


def retrieving_kinds() -> tuple[str, ...]:
    mr = "1.2.840.10008.5.1.4.1.1.4"
    return (*(f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("2", "481.2", "481.3", "481.5")), mr)


def intake(folder: Path, port: int = 0, **how: Any) -> Intake:
    return Intake(folder=folder, allowed=("ARCHIVE",), port=port or free_loopback_port(), **how)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of two patients; to the first belongs an MR too."""
    folder = tmp_path_factory.mktemp("studies")
    for number in range(2):
        write_small_study(folder / str(number), number)
    files = sorted(folder.rglob("*.dcm"))
    image = pydicom.dcmread(next(path for path in files if "ct" in path.name.lower() or "ct" in path.parent.name))
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{MR_SERIES}.1"
    image.SeriesInstanceUID, image.Modality = MR_SERIES, "MR"
    image.save_as(folder / "0" / "mr.dcm")
    return sorted(folder.rglob("*.dcm"))


def patient_of(path: Path) -> str:
    return str(pydicom.dcmread(path, stop_before_pixels=True).PatientID)


@pytest.mark.parametrize("ignores_patient", [False, True], ids=["filters", "lists all"])
def test_a_patients_ct_and_rt_objects_come_and_nothing_else(
    studies: list[Path], tmp_path: Path, ignores_patient: bool
) -> None:
    asked = intake(tmp_path / "in")
    archive = Archive(studies, ignores_patient=ignores_patient, destination=("FEDKT3D", asked.port))
    wanted = patient_of(studies[0])
    with listening(archive) as peer:
        count, store = retrieve(peer, asked, patient_id=wanted)
    kept = [pydicom.dcmread(path) for path in (tmp_path / "in").rglob("*.dcm")]
    own = [pydicom.dcmread(path) for path in studies if patient_of(path) == wanted]
    assert count == 1
    assert {d.SOPInstanceUID for d in kept} == {d.SOPInstanceUID for d in own if d.Modality != "MR"}
    assert store.stored == len(kept)
    assert archive.moved
    assert MR_SERIES not in archive.moved  # an archive would count the MR as a failure


def test_what_was_sent_elsewhere_is_no_success(studies: list[Path], tmp_path: Path) -> None:
    """The archive sends every instance to another node that has this one's title in its table."""
    with Receiver(Intake(folder=tmp_path / "other", allowed=("ARCHIVE",), port=0)) as other:
        archive = Archive(studies, destination=("FEDKT3D", other.port))
        with listening(archive) as peer, pytest.raises(FedKT3DError, match=r"it sent \d+ instances, and 0 came"):
            retrieve(peer, intake(tmp_path / "in"), patient_id=patient_of(studies[0]))


def test_what_cannot_be_delivered_is_counted_and_named(studies: list[Path], tmp_path: Path) -> None:
    asked = intake(tmp_path / "in")
    archive = Archive(studies, hides_modality=True, destination=("FEDKT3D", asked.port))  # so the MR is asked for too
    with (
        listening(archive) as peer,
        pytest.raises(FedKT3DError, match=r"not send every instance .*, 1 failed, \d+ came"),
    ):
        retrieve(peer, asked, patient_id=patient_of(studies[0]))
    for nowhere in (None, ("WRONG", asked.port)):  # this node is not called so, and refuses
        archive.destination = nowhere
        with listening(archive) as peer, pytest.raises(FedKT3DError, match="does not know FEDKT3D or cannot reach it"):
            retrieve(peer, asked, patient_id=patient_of(studies[0]))


def test_a_full_folder_is_said(studies: list[Path], tmp_path: Path) -> None:
    asked = intake(tmp_path / "in", quota_gb=2e-5)
    archive = Archive(studies, destination=("FEDKT3D", asked.port))
    with listening(archive) as peer, pytest.raises(InputError, match="folder is full"):
        retrieve(peer, asked, patient_id=patient_of(studies[0]))


def test_an_archive_that_hangs_up_or_lacks_the_service_is_one_line(studies: list[Path], tmp_path: Path) -> None:
    for archive, told in (
        (Archive(studies, hangs_up=True), "no answer|too early"),
        (Archive(studies, services=(FIND,)), "does not offer this service"),
    ):
        with listening(archive) as peer, pytest.raises(FedKT3DError, match=told) as caught:
            retrieve(peer, intake(tmp_path / "in"), patient_id=patient_of(studies[0]))
        assert patient_of(studies[0]) not in str(caught.value)
    nobody = Peer(ae_title="ARCHIVE", host="127.0.0.1", port=free_loopback_port())
    with pytest.raises(FedKT3DError, match="does not answer"):
        retrieve(nobody, intake(tmp_path / "in"), patient_id="X")


@pytest.mark.parametrize(
    "wrong", [{}, {"patient_id": "A", "study_uid": "1"}, {"patient_id": "A*"}, {"study_uid": "1?"}]
)
def test_an_id_is_one_id(wrong: dict[str, str], tmp_path: Path) -> None:
    peer = Peer(ae_title="ARCHIVE", host="127.0.0.1", port=1)
    with pytest.raises(InputError, match="expected"):
        retrieve(peer, intake(tmp_path), **wrong)


def test_more_answers_than_a_patient_has_are_refused(
    studies: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieving, "MOST_ANSWERS", 3)
    with listening(Archive(studies)) as peer, pytest.raises(InputError, match="more than 3 answers"):
        retrieve(peer, intake(tmp_path / "in"), patient_id=patient_of(studies[0]))


def test_titles_that_are_none_are_refused_before_anything_is_sent() -> None:
    for title in ("", "A" * 17, "A\\B", "Ä"):
        with pytest.raises(InputError, match="AE title"):
            Peer(ae_title=title, host="127.0.0.1", port=1)
        with pytest.raises(InputError, match="AE title"):
            Peer(ae_title="A", host="127.0.0.1", port=1, own_title=title)


def test_tls_needs_its_three_files_and_a_key_that_opens(tmp_path: Path) -> None:
    ca = write_certificates(tmp_path, "site", "other")
    site, key = tmp_path / "site.pem", tmp_path / "site.key"
    assert Tls.of(None, None, None) is None
    with pytest.raises(InputError, match="together"):
        Tls.of(ca, site, None)
    Tls(ca=ca, certificate=site, key=key).context()
    with pytest.raises(InputError, match="--tls-key"):  # the key of another certificate
        Tls(ca=ca, certificate=site, key=tmp_path / "other.key").context()
    with pytest.raises(InputError, match="--tls-ca"):
        Tls(ca=key, certificate=site, key=key).context()
    write_certificates(tmp_path / "locked", "site", passphrase=b"secret")
    locked = tmp_path / "locked"
    with pytest.raises(InputError, match="without a passphrase"):  # and no question on the terminal
        Tls(ca=locked / "ca.pem", certificate=locked / "site.pem", key=locked / "site.key").context()


def test_a_node_that_speaks_tls_takes_nothing_from_a_stranger(tmp_path: Path, studies: list[Path]) -> None:
    ca = write_certificates(tmp_path / "own", "site", "tps")
    write_certificates(tmp_path / "strange", "tps")
    own, strange = tmp_path / "own", tmp_path / "strange"
    tls = Tls(ca=ca, certificate=own / "site.pem", key=own / "site.key")
    with Receiver(Intake(folder=tmp_path / "in", allowed=("TPS",), port=0, tls=tls)) as receiver:
        for theirs in (None, Tls(ca=ca, certificate=strange / "tps.pem", key=strange / "tps.key")):
            peer = Peer(ae_title="FEDKT3D", host="127.0.0.1", port=receiver.port, own_title="TPS", tls=theirs)
            with pytest.raises(FedKT3DError, match="send: "):
                send([_dose(studies, tmp_path)], peer)
        assert receiver.store.stored == 0
        good = Tls(ca=ca, certificate=own / "tps.pem", key=own / "tps.key")
        peer = Peer(ae_title="FEDKT3D", host="127.0.0.1", port=receiver.port, own_title="TPS", tls=good)
        send([_dose(studies, tmp_path)], peer)
        assert receiver.store.stored == 1


def _dose(studies: list[Path], folder: Path) -> Path:
    """A file that says that `client predict` wrote it."""
    dose = pydicom.dcmread(next(path for path in studies if path.name == "rd.dcm"))
    dose.SeriesDescription = "Predicted, RESEARCH ONLY"
    dose.save_as(folder / "dose.dcm")
    return folder / "dose.dcm"

"""The storage node takes what allowed systems send, whole, and nothing else; `send` sends what is ours alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage, RTDoseStorage, generate_uid

from client.dicom.write import Origin, write_dose
from client.pacs.receive import Intake, Receiver, Store
from client.pacs.send import Peer, send
from shared_model.core.errors import FedKT3DError, InputError
from shared_model.patient.geometry import Grid
from tests.builders.small_study import write_small_study

pynetdicom = pytest.importorskip("pynetdicom", reason="pynetdicom is not installed (pip install 'fedkt3d[intake]')")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("study")
    write_small_study(folder)
    return sorted(folder.rglob("*.dcm"))


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(Intake(folder=tmp_path / "in", allowed=("TPS",), port=0)) as found:
        yield found


def association(receiver: Receiver, title: str = "TPS", called: str = "FEDKT3D", kinds: tuple[str, ...] = ()):  # type: ignore[no-untyped-def]
    entity = pynetdicom.AE(ae_title=title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
    for kind in kinds or ("1.2.840.10008.5.1.4.1.1.2", *(f"1.2.840.10008.5.1.4.1.1.481.{n}" for n in (2, 3, 5))):
        entity.add_requested_context(kind)
    return entity.associate("127.0.0.1", receiver.port, ae_title=called)


def send_all(receiver: Receiver, datasets: list[Dataset], **how: object) -> list[int]:
    link = association(receiver, **how)  # type: ignore[arg-type]
    assert link.is_established
    codes = [link.send_c_store(dataset).Status for dataset in datasets]
    link.release()
    return codes


def test_a_study_arrives_whole(receiver: Receiver, study: list[Path], tmp_path: Path) -> None:
    sent = [pydicom.dcmread(path) for path in study]
    assert set(send_all(receiver, sent)) == {0}
    kept = [pydicom.dcmread(path) for path in (tmp_path / "in").rglob("*.dcm")]
    assert len(kept) == len(sent) == receiver.store.stored
    by_uid = {dataset.SOPInstanceUID: dataset for dataset in kept}
    for dataset in sent:
        assert by_uid[dataset.SOPInstanceUID] == dataset
    assert len(list((tmp_path / "in").iterdir())) == 1  # one study, one folder
    names = " ".join(str(path.relative_to(tmp_path)) for path in (tmp_path / "in").rglob("*"))
    assert str(sent[0].PatientID) not in names
    assert str(sent[0].StudyInstanceUID) not in names


def test_a_stranger_and_another_called_title_are_rejected(receiver: Receiver) -> None:
    assert not association(receiver, title="STRANGER").is_established
    assert not association(receiver, called="OTHER").is_established
    assert association(receiver).is_established


def test_who_is_turned_away_is_said_without_a_name(tmp_path: Path) -> None:
    said: list[str] = []
    with Receiver(Intake(folder=tmp_path / "in", allowed=("TPS",), port=0), said.append) as receiver:
        assert not association(receiver, title="STRANGER").is_established
        end = time.monotonic() + 20
        while not said and time.monotonic() < end:
            time.sleep(0.05)
    assert any("refused a system" in line for line in said)
    assert not any("STRANGER" in line for line in said)


def test_other_kinds_of_object_are_not_taken(receiver: Receiver) -> None:
    link = association(receiver, kinds=(MRImageStorage, CTImageStorage))
    accepted = {context.abstract_syntax for context in link.accepted_contexts}
    link.release()
    assert accepted == {CTImageStorage}


def made(study_uid: str = "1.2.3", size: int = 1000) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTDoseStorage, generate_uid(prefix=None)
    dataset.StudyInstanceUID, dataset.PatientID, dataset.PatientComments = study_uid, "P", "x" * size
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    return dataset


def test_the_quota_holds_and_what_was_there_counts(tmp_path: Path) -> None:
    with Receiver(Intake(folder=tmp_path / "in", allowed=("TPS",), port=0, quota_gb=4e-6)) as receiver:
        codes = send_all(receiver, [made() for _ in range(4)])
    assert codes[0] == codes[1] == 0
    assert codes[-1] == 0xA700
    used = sum(path.stat().st_size for path in (tmp_path / "in").rglob("*") if path.is_file())
    assert used <= 4000
    again = Store(tmp_path / "in", 4e-6)
    assert not again.keep("1.2.3", "1.2.99", b"x" * (4001 - used))
    assert again.keep("1.2.3", "1.2.99", b"x" * (4000 - used))


def test_uids_that_look_like_paths_stay_in_the_folder(tmp_path: Path) -> None:
    store = Store(tmp_path / "in", 1.0)
    assert store.keep("../../outside", "../../../etc/passwd", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    (kept,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert kept.parent.parent == tmp_path / "in"


def test_many_senders_at_once_lose_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "in", 1.0)
    threads = [
        threading.Thread(target=lambda k=k: [store.keep("1.2", f"{k}.{n}", bytes(n + 1)) for n in range(20)])
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.stored == 80
    assert len(list((tmp_path / "in").rglob("*.dcm"))) == 80


@pytest.mark.parametrize(
    "wrong", [{"allowed": ()}, {"allowed": ("A" * 17,)}, {"ae_title": ""}, {"port": 70000}, {"quota_gb": 0.0}]
)
def test_bad_settings_are_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Intake(**{"folder": tmp_path, "allowed": ("TPS",), **wrong})  # type: ignore[arg-type]


def test_a_port_in_use_is_one_clear_error(receiver: Receiver, tmp_path: Path) -> None:
    second = Receiver(Intake(folder=tmp_path / "b", allowed=("TPS",), port=receiver.port))
    with pytest.raises(InputError, match="cannot listen"):
        second.__enter__()


def test_send_takes_our_doses_alone(receiver: Receiver, study: list[Path], tmp_path: Path) -> None:
    peer = Peer(ae_title="FEDKT3D", host="127.0.0.1", port=receiver.port, own_title="TPS")
    plan_dose = next(path for path in study if path.name == "rd.dcm")
    source = pydicom.dcmread(study[0])
    grid = Grid((3, 4, 5), (2.0, 2.0, 2.0))
    write_dose(
        tmp_path / "dose.dcm",
        np.ones(grid.shape),
        grid,
        Origin(study=source, frame_of_reference=source.FrameOfReferenceUID),
    )
    with pytest.raises(InputError, match="nothing was sent"):
        send([tmp_path / "dose.dcm", plan_dose], peer)
    assert receiver.store.stored == 0
    send([tmp_path / "dose.dcm"], peer)
    assert receiver.store.stored == 1
    with pytest.raises(FedKT3DError, match="is it allowed there"):
        send([tmp_path / "dose.dcm"], Peer(ae_title="FEDKT3D", host="127.0.0.1", port=receiver.port, own_title="X"))


def test_a_warning_says_that_it_was_stored(study: list[Path], tmp_path: Path) -> None:
    """PS3.4, table B.2-1: elements coerced, discarded, or not as the class wants; the rest is sent all the same."""
    codes = [0xB007, 0xB000, 0x0000, 0xB006, 0xA700]
    source, grid = pydicom.dcmread(study[0]), Grid((3, 4, 5), (2.0, 2.0, 2.0))
    origin = Origin(study=source, frame_of_reference=source.FrameOfReferenceUID)
    files = [tmp_path / f"{n}.dcm" for n in range(len(codes))]
    for path in files:
        write_dose(path, np.ones(grid.shape), grid, origin)
    answers = iter(codes)
    entity = pynetdicom.AE(ae_title="TPS")
    entity.add_supported_context(RTDoseStorage)
    store = (pynetdicom.evt.EVT_C_STORE, lambda _event: next(answers))
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[store])
    try:
        peer = Peer(ae_title="TPS", host="127.0.0.1", port=server.server_address[1])
        notes = send(files[:4], peer)
        assert [note.partition(":")[0] for note in notes] == ["0.dcm", "1.dcm", "3.dcm"]
        assert "0xB007" in notes[0]
        with pytest.raises(FedKT3DError, match=r"4\.dcm was refused \(status 0xA700\)"):
            send(files[4:], peer)
    finally:
        server.shutdown()


@pytest.mark.parametrize("text", ["", "TPS", "TPS@host", "TPS@host:x", "@host:1", "TPS@host:99999"])
def test_a_peer_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="AE@HOST:PORT"):
        Peer.parse(text)

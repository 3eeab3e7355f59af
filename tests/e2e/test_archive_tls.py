"""An archive is queried and sends a study over DICOM TLS, `client predict` answers, the RTDOSE goes back over TLS."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import MRImageStorage

from client.pacs.link import Peer, Tls
from client.pacs.receive import Intake
from client.pacs.retrieve import retrieve
from privacy.flower.processes import free_loopback_port
from shared_model.core.errors import FedKT3DError, InputError
from tests.builders.dicom_certificates import write_certificates
from tests.builders.small_study import write_small_study
from tests.e2e import orthanc
from tests.e2e.orthanc import Orthanc
from tests.e2e.test_intake import client

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(280),
    pytest.mark.skipif(orthanc.PROGRAM is None, reason=orthanc.MISSING),
]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    write_certificates(folder, "archive", "site")
    write_certificates(folder / "strange", "stranger")
    return folder


@pytest.fixture(scope="module")
def port() -> int:
    return free_loopback_port()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, certificates: Path, port: int) -> Iterator[Orthanc]:
    tls = {"Certificate": certificates / "archive.pem", "PrivateKey": certificates / "archive.key"}
    tls["TrustedCertificates"] = certificates / "ca.pem"
    with orthanc.running(tmp_path_factory.mktemp("tls") / "orthanc", port, plugins=False, tls=tls) as found:
        for number in range(2):
            folder = tmp_path_factory.mktemp("study")
            write_small_study(folder, number)
            for path in folder.rglob("*.dcm"):
                found.upload(path)
        found.upload(mr_of(folder))
        yield found


def mr_of(study: Path) -> Path:
    """An MR of the same patient and study, which this node does not take."""
    image = pydicom.dcmread(next(path for path in study.rglob("ct_*.dcm")))
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = MRImageStorage
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.3680043.5.1"
    image.SeriesInstanceUID, image.Modality = "1.2.826.0.1.3680043.5", "MR"
    image.save_as(study / "mr.dcm")
    return study / "mr.dcm"


def tls_options(folder: Path) -> list[str | Path]:
    return ["--tls-ca", folder / "ca.pem", "--tls-cert", folder / "site.pem", "--tls-key", folder / "site.key"]


def test_a_study_is_queried_retrieved_predicted_and_its_dose_sent_back_over_tls(
    archive: Orthanc, certificates: Path, port: int, tmp_path: Path
) -> None:
    where, options = f"ORTHANC@127.0.0.1:{archive.dicom_port}", tls_options(certificates)
    told = client(
        "retrieve", where, "--out", tmp_path / "in", "--patient-id", "PHANTOM-7-0001", "--port", str(port), *options
    )
    count = len(list((tmp_path / "in").rglob("*.dcm")))
    assert f"1 studies, {count} instances" in told.stdout
    kept = [pydicom.dcmread(path) for path in (tmp_path / "in").rglob("*.dcm")]
    assert {dataset.PatientID for dataset in kept} == {"PHANTOM-7-0001"}
    assert {dataset.Modality for dataset in kept} == {"CT", "RTSTRUCT", "RTPLAN", "RTDOSE"}
    client("predict", tmp_path / "in", "--out", tmp_path / "out")
    before = set(archive.instances("RTDOSE"))
    client("send", tmp_path / "out" / "dose.dcm", "--to", where, *options)
    (new,) = set(archive.instances("RTDOSE")) - before
    back, ours = pydicom.dcmread(io.BytesIO(archive.file(new))), pydicom.dcmread(tmp_path / "out" / "dose.dcm")
    assert back.SOPInstanceUID == ours.SOPInstanceUID
    assert back.PixelData == ours.PixelData


def test_without_tls_or_with_a_strangers_certificate_nothing_is_sent(
    archive: Orthanc, certificates: Path, port: int, tmp_path: Path
) -> None:
    client_ca, strange = certificates / "ca.pem", certificates / "strange"
    stranger = Tls(ca=client_ca, certificate=strange / "stranger.pem", key=strange / "stranger.key")
    no_trust = Tls(ca=strange / "ca.pem", certificate=certificates / "site.pem", key=certificates / "site.key")
    for tls in (None, stranger, no_trust):
        peer = Peer(ae_title="ORTHANC", host="127.0.0.1", port=archive.dicom_port, tls=tls)
        with pytest.raises(FedKT3DError, match="retrieve: "):
            retrieve(peer, Intake(folder=tmp_path, allowed=("ORTHANC",), port=port), patient_id="PHANTOM-7-0000")
    assert not list(tmp_path.rglob("*.dcm"))


def test_a_patient_that_the_archive_does_not_know(
    archive: Orthanc, certificates: Path, port: int, tmp_path: Path
) -> None:
    tls = Tls(ca=certificates / "ca.pem", certificate=certificates / "site.pem", key=certificates / "site.key")
    peer = Peer(ae_title="ORTHANC", host="127.0.0.1", port=archive.dicom_port, tls=tls)
    intake = Intake(folder=tmp_path, allowed=("ORTHANC",), port=port, tls=tls)
    with pytest.raises(InputError, match="no study of that patient") as caught:
        retrieve(peer, intake, patient_id="NOBODY-9")
    assert "NOBODY" not in str(caught.value)
    with pytest.raises(InputError, match="stand for several"):
        retrieve(peer, intake, patient_id="*")
    unknown = Intake(folder=tmp_path, allowed=("ORTHANC",), port=0, tls=tls, ae_title="ELSEWHERE")
    with pytest.raises(FedKT3DError, match="does it know ELSEWHERE"):
        retrieve(peer, unknown, patient_id="PHANTOM-7-0000")
    assert not list(tmp_path.rglob("*.dcm"))

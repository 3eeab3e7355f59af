"""An archive sends a study, `client receive` takes it, `client predict` answers, the RTDOSE goes back."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest

from client.pacs import pull
from client.pacs.receive import Store
from privacy.flower.processes import free_loopback_port
from tests.builders.small_study import write_small_study
from tests.e2e import orthanc
from tests.e2e.deployment import SCRIPTS
from tests.e2e.orthanc import Orthanc

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(280),
    pytest.mark.skipif(orthanc.PROGRAM is None, reason=orthanc.MISSING),
]


def client(*arguments: str | Path, ok: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `client` to its end."""
    command = [str(SCRIPTS / "client"), *(str(argument) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert not ok or done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of one study."""
    folder = tmp_path_factory.mktemp("study")
    write_small_study(folder)
    return sorted(folder.rglob("*.dcm"))


@pytest.fixture(scope="module")
def port() -> int:
    """Where `client receive` will listen."""
    return free_loopback_port()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, sent: list[Path], port: int) -> Iterator[Orthanc]:
    with orthanc.running(tmp_path_factory.mktemp("archive") / "orthanc", port) as found:
        for path in sent:
            found.upload(path)
        yield found


def test_a_study_comes_in_is_predicted_and_its_dose_goes_back(
    archive: Orthanc, sent: list[Path], port: int, tmp_path: Path
) -> None:
    listening = subprocess.Popen(
        [SCRIPTS / "client", "receive", tmp_path / "in", "--from", "ORTHANC", "--port", str(port)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        assert listening.stdout is not None
        assert "listening on" in listening.stdout.readline()
        archive.send(archive.upload(sent[0]))
    finally:
        listening.send_signal(signal.SIGTERM)
        told, _ = listening.communicate(timeout=30)
    assert listening.returncode == 0
    assert f"stopped; {len(sent)} instances received, 0 refused" in told
    assert len(list((tmp_path / "in").rglob("*.dcm"))) == len(sent)

    done = json.loads(client("predict", tmp_path / "in", "--out", tmp_path / "out", "--mean-of", "2", "--json").stdout)
    assert {"dose.dcm", "dvh.csv", "report.html"} <= set(done["files"])
    client("send", tmp_path / "out" / "dose.dcm", "--to", f"ORTHANC@127.0.0.1:{archive.dicom_port}")
    doses = [pydicom.dcmread(io.BytesIO(archive.file(one))) for one in archive.instances("RTDOSE")]
    (back,) = (dose for dose in doses if "RESEARCH ONLY" in str(dose.get("SeriesDescription", "")))
    plan = next(d for d in (pydicom.dcmread(path) for path in sent) if d.Modality == "RTPLAN")
    assert back.StudyInstanceUID == plan.StudyInstanceUID
    assert back.FrameOfReferenceUID == plan.FrameOfReferenceUID
    assert back.PatientID == plan.PatientID
    assert back.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == plan.SOPInstanceUID
    with np.load(tmp_path / "out" / "dose.npz") as answer:
        wanted = answer["dose_gy"]
    step_gy = float(back.DoseGridScaling)
    np.testing.assert_allclose(back.pixel_array * step_gy, wanted, atol=0.51 * step_gy)


@pytest.mark.skipif(not orthanc.DICOMWEB.exists(), reason=orthanc.MISSING)
def test_the_same_study_by_dicomweb(archive: Orthanc, sent: list[Path], tmp_path: Path) -> None:
    patient = pydicom.dcmread(sent[0]).PatientID
    address = f"{archive.url}/dicom-web"
    told = client("pull", address, "--out", tmp_path / "in", "--patient-id", patient).stdout
    assert told.startswith("1 studies")
    kept = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, (tmp_path / "in").rglob("*.dcm"))}
    for dataset in map(pydicom.dcmread, sent):
        assert kept[dataset.SOPInstanceUID].Modality == dataset.Modality
        if "PixelData" in dataset:
            assert kept[dataset.SOPInstanceUID].PixelData == dataset.PixelData
    checked = json.loads(client("check", "--data", tmp_path / "in", "--json").stdout)
    assert checked["usable"] == 1
    for wrong in (("--patient-id", "Nobody^Known"), ("--study-uid", "1.2.3.4.5")):
        refused = client("pull", address, "--out", tmp_path / "none", *wrong, ok=False)
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1
        assert wrong[1] not in refused.stderr


@pytest.mark.skipif(not orthanc.DICOMWEB.exists(), reason=orthanc.MISSING)
def test_all_studies_of_a_patient_come_page_after_page(
    archive: Orthanc, sent: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = pydicom.dcmread(next(path for path in sent if path.name == "rp.dcm"))
    for number in range(7):  # the last two are another patient's
        copy = tmp_path / f"{number}.dcm"
        plan.PatientID = "MANY" if number < 5 else "MANY1"
        plan.StudyInstanceUID, plan.SeriesInstanceUID = (
            f"1.2.826.0.1.3680043.9.{number}",
            f"1.2.826.0.1.3680043.8.{number}",
        )
        plan.SOPInstanceUID = plan.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.3680043.7.{number}"
        plan.save_as(copy)
        archive.upload(copy)
    monkeypatch.setattr(pull, "PAGE", 2)
    store = Store(tmp_path / "in", 1.0)
    assert pull.pull(pull.Archive(url=f"{archive.url}/dicom-web"), store, patient_id="MANY") == 5
    kept = {pydicom.dcmread(path).StudyInstanceUID for path in (tmp_path / "in").rglob("*.dcm")}
    assert kept == {f"1.2.826.0.1.3680043.9.{number}" for number in range(5)}


@pytest.mark.skipif(not orthanc.DICOMWEB.exists(), reason=orthanc.MISSING)
def test_an_archive_that_asks_for_a_bearer_token(sent: list[Path], port: int, tmp_path: Path) -> None:
    token, wrong = tmp_path / "token", tmp_path / "wrong"
    token.write_text("abc.DEF-123\n")
    wrong.write_text("other")
    patient = pydicom.dcmread(sent[0]).PatientID
    with orthanc.running(tmp_path / "orthanc", port, token="abc.DEF-123") as found:
        for path in sent:
            found.upload(path)
        options = ("pull", f"{found.url}/dicom-web", "--out", tmp_path / "in", "--patient-id", patient)
        for refused in (client(*options, ok=False), client(*options, "--token", wrong, ok=False)):
            assert refused.returncode == 2
            assert "is --login or --token right?" in refused.stderr
        assert client(*options, "--token", token).stdout.startswith(f"1 studies, {len(sent)} instances")


def test_an_archive_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    refused = client("pull", "http://127.0.0.1:9/dicom-web", "--out", tmp_path, "--patient-id", "X", ok=False)
    assert refused.returncode == 2
    assert "no connection to the archive" in refused.stderr

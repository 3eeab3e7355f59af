"""Single files: what is cut, inflated, compressed or nested; and the RT objects that pydicom ships."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from client.dicom import open as dicom_open
from client.dicom.contours import read_structures
from client.dicom.find import find_studies
from client.dicom.headers import read_header
from client.dicom.join import DicomStudy
from client.dicom.open import NotDicomError, open_dataset
from client.dicom.parts import read_ct_slice, read_dose_grid
from client.dicom.plan import read_plan
from client.dicom.study import read_case
from client.dicom.worker import Worker
from shared_model.core.errors import InputError
from simulations.phantom.planes import Scan
from tests.builders.dicom_study import patient, written

Change = Callable[[pydicom.Dataset], object]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> DicomStudy:
    return written(tmp_path_factory.mktemp("study"), Scan(), edge=12)


def _copy(study: DicomStudy, tmp_path: Path, kind: str, change: Callable[[pydicom.Dataset], object]) -> Path:
    header = {"dose": study.doses[0], "ct": study.ct[0], "rs": study.structures, "rp": study.plan}[kind]
    assert header is not None
    dataset = pydicom.dcmread(header.path)
    change(dataset)
    dataset.save_as(tmp_path / "changed.dcm")
    return tmp_path / "changed.dcm"


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.999])
def test_a_file_that_ends_early_is_noticed(study: DicomStudy, tmp_path: Path, kept: float) -> None:
    """pydicom itself returns the part of a value that is there."""
    for header, read in (
        (study.doses[0], read_dose_grid),
        (study.structures, read_structures),
        (study.ct[0], read_ct_slice),
    ):
        assert header is not None
        content = header.path.read_bytes()
        (tmp_path / "cut.dcm").write_bytes(content[: int(len(content) * kept)])
        with pytest.raises(InputError):
            read(tmp_path / "cut.dcm")


def test_other_files_are_no_dicom(tmp_path: Path) -> None:
    for content in (b"", b"%PDF-1.4 " * 50, b"PK\x03\x04" + bytes(200)):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(NotDicomError):
            read_header(tmp_path / "other")


def test_a_data_set_without_preamble_is_read(study: DicomStudy, tmp_path: Path) -> None:
    dataset = pydicom.dcmread(study.ct[0].path)
    del dataset.file_meta
    dataset.save_as(tmp_path / "bare", implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert read_header(tmp_path / "bare").uid == study.ct[0].uid


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_other_plain_transfer_syntaxes(study: DicomStudy, tmp_path: Path, syntax: str) -> None:
    expected = read_ct_slice(study.ct[0].path)

    def change(dataset: pydicom.Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax

    path = _copy(study, tmp_path, "ct", change)
    assert read_header(path).uid == study.ct[0].uid
    assert np.array_equal(read_ct_slice(path), expected)


def test_compressed_pixels(study: DicomStudy, tmp_path: Path) -> None:
    expected = read_ct_slice(study.ct[0].path)
    path = _copy(study, tmp_path, "ct", lambda d: d.compress(RLELossless))
    assert np.array_equal(read_ct_slice(path), expected)


@pytest.mark.parametrize(
    "name",
    [
        "JPEG2000.dcm",
        "JPEG-LL.dcm",
        "JPGLosslessP14SV1_1s_1f_8b.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_RLE.dcm",
    ],
)
def test_a_decoder_is_there_for_every_usual_compression(name: str) -> None:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"pydicom does not ship {name}")
    dataset = open_dataset(Path(path), pixels=True)
    assert dataset.pixel_array.size > 0


def test_a_deflated_bomb_is_refused_before_it_is_inflated(
    study: DicomStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicom_open, "MAX_INFLATED_BYTES", 2**20)

    def change(dataset: pydicom.Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        dataset.PixelData = bytes(8 * 2**20)

    path = _copy(study, tmp_path, "dose", change)
    assert path.stat().st_size < 2**17
    with pytest.raises(InputError, match="inflates to 1 MiB or more"):
        read_header(path)
    cut = path.read_bytes()[:-40]
    path.write_bytes(cut)
    with pytest.raises(InputError):
        read_header(path)


def test_dose_grids_of_both_forms_and_either_direction(study: DicomStudy, tmp_path: Path) -> None:
    usual = read_dose_grid(study.doses[0].path)

    def absolute(dataset: pydicom.Dataset) -> None:
        first = float(dataset.ImagePositionPatient[2])
        dataset.GridFrameOffsetVector = [first + float(v) for v in dataset.GridFrameOffsetVector]

    assert np.allclose(read_dose_grid(_copy(study, tmp_path, "dose", absolute)).offsets_mm, usual.offsets_mm)

    def downwards(dataset: pydicom.Dataset) -> None:
        offsets = [float(v) for v in dataset.GridFrameOffsetVector]
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, float(z) + offsets[-1]]
        dataset.GridFrameOffsetVector = [-v for v in offsets]
        dataset.PixelData = dataset.pixel_array[::-1].tobytes()

    folder = study.doses[0].path.parent
    before = read_case(find_studies(folder).studies[0]).case.dose_gy
    content = study.doses[0].path.read_bytes()
    try:
        study.doses[0].path.write_bytes(_copy(study, tmp_path, "dose", downwards).read_bytes())
        after = read_case(find_studies(folder).studies[0]).case.dose_gy
    finally:
        study.doses[0].path.write_bytes(content)
    assert before is not None
    assert after is not None
    assert np.abs(before - after).max() < 1e-4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: setattr(d, "DoseUnits", "RELATIVE"), "DoseUnits"),
        (lambda d: setattr(d, "DoseType", "ERROR"), "DoseType"),
        (lambda d: setattr(d, "DoseGridScaling", 0), "DoseGridScaling"),
        (lambda d: setattr(d, "NumberOfFrames", 2000000), "claimed|GridFrame"),
        (lambda d: setattr(d, "Rows", 60000), "Rows"),
        (lambda d: setattr(d, "GridFrameOffsetVector", [0.0] * 12), "GridFrameOffsetVector"),
        (lambda d: setattr(d, "PixelSpacing", [0.0, 1.0]), "PixelSpacing"),
        (lambda d: setattr(d, "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]), "ImageOrientationPatient"),
    ],
)
def test_doses_that_are_refused(study: DicomStudy, tmp_path: Path, change: Change, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_dose_grid(_copy(study, tmp_path, "dose", change))


def test_contours_that_are_refused_and_shapes_that_are_passed_over(study: DicomStudy, tmp_path: Path) -> None:
    def contour(dataset: pydicom.Dataset) -> pydicom.Dataset:
        return dataset.ROIContourSequence[0].ContourSequence[0]

    path = _copy(study, tmp_path, "rs", lambda d: setattr(contour(d), "NumberOfContourPoints", 3000))
    (bad,) = [roi for roi in read_structures(path).rois if roi.fault]
    assert "NumberOfContourPoints" in bad.fault
    assert not len(bad.counts)
    path = _copy(study, tmp_path, "rs", lambda d: setattr(contour(d), "ContourGeometricType", "POINT"))
    assert sum(roi.other_shapes for roi in read_structures(path).rois) == 1

    def empty(dataset: pydicom.Dataset) -> None:
        del dataset.ROIContourSequence[0].ContourSequence

    rois = read_structures(_copy(study, tmp_path, "rs", empty)).rois
    assert [len(roi.counts) for roi in rois].count(0) == 1
    assert len(rois) == len(patient(3, 12).structures) + 1


def test_the_reading_process_is_ended_and_started_again(study: DicomStudy, tmp_path: Path) -> None:
    """A pipe that nobody writes to is a file that takes for ever."""
    os.mkfifo(tmp_path / "pipe")
    quick = Worker(max_seconds=0.5)
    with pytest.raises(InputError, match=r"longer than 0\.5 s"):
        quick.read(read_header, tmp_path / "pipe")
    quick._max_seconds = 60
    assert quick.read(read_header, study.ct[0].path).kind == "CT"
    quick.close()


@pytest.mark.parametrize("name", ["rtdose.dcm", "rtdose_1frame.dcm", "rtdose_rle.dcm", "rtdose_expb.dcm"])
def test_doses_that_pydicom_ships(name: str, tmp_path: Path) -> None:
    """They hold relative dose, which is no dose; with another unit the same numbers are read."""
    path = Path(str(get_testdata_file(name, download=False)))
    with pytest.raises(InputError, match="DoseUnits: expected GY, and relative dose"):
        read_dose_grid(path)
    expected = pydicom.dcmread(path)
    expected.DoseUnits = "GY"
    path = tmp_path / name
    expected.save_as(path)
    dose = read_dose_grid(path)
    assert dose.dose_gy.shape[1:] == (expected.Rows, expected.Columns)
    assert np.allclose(dose.dose_gy.squeeze(), expected.pixel_array * float(expected.DoseGridScaling), rtol=1e-6)
    assert read_header(path).kind == "RTDOSE"


def test_plan_and_structures_that_pydicom_ships() -> None:
    plan = read_plan(Path(str(get_testdata_file("rtplan.dcm", download=False))))
    assert len(plan.beams) == 1
    assert plan.beams[0].gantry_deg == (0.0,)
    assert plan.fractions == 30
    rois = read_structures(Path(str(get_testdata_file("rtstruct.dcm", download=False)))).rois
    assert [len(roi.counts) for roi in rois] == [3, 0, 0]
    with pytest.raises(InputError):
        read_plan(Path(str(get_testdata_file("rtplan_truncated.dcm", download=False))))


def test_every_file_that_pydicom_ships_is_read_or_refused_in_one_line() -> None:
    root = Path(str(get_testdata_file("rtplan.dcm", download=False))).parent
    found = find_studies(root)
    assert found.files > 100
    for problem in found.problems:
        assert "\n" not in problem.line()
    for study in found.studies:
        try:
            read_case(study)
        except InputError as error:
            assert str(error).startswith(f"case {study.case_id}: ")  # noqa: PT017


def test_the_reading_process_loads_no_model() -> None:
    """It is started anew after every file that it had to be ended for, and its memory has a limit."""
    code = "import client.dicom.worker, sys; print([n for n in ('torch', 'scipy', 'tg263') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

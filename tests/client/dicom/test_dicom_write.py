"""RTDOSE: an independent validator accepts it, two independent libraries read back what was written."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import RTPlanStorage

from client.dicom.write import Origin, write_dose
from shared_model.core.errors import InputError
from shared_model.patient.geometry import Grid

# What planning systems were seen to want (DICOM type 1 or 2 for a dose on a grid of frames).
WANTED = [
    "FrameOfReferenceUID",
    "DoseUnits",
    "DoseType",
    "DoseSummationType",
    "GridFrameOffsetVector",
    "DoseGridScaling",
    "FrameIncrementPointer",
    "NumberOfFrames",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "Manufacturer",
    "PositionReferenceIndicator",
    "SliceThickness",
    "OperatorsName",
    "InstanceNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
]
VALIDATOR = shutil.which("dciodvfy")


def study(**values: str) -> Dataset:
    made = Dataset()
    for keyword, value in {
        "SpecificCharacterSet": "ISO_IR 192", "PatientName": "Müller^Ada", "PatientID": "P1",
        "StudyInstanceUID": "1.2.826.0.1.1", "StudyID": "1", "StudyDate": "20260102", "StudyTime": "101500",
        "StudyDescription": "neck", **values,
    }.items():  # fmt: skip
        setattr(made, keyword, value)
    return made


def plan() -> Dataset:
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = RTPlanStorage, "1.2.826.0.1.7"
    return made


def origin(with_plan: bool = True) -> Origin:
    return Origin(study=study(), frame_of_reference="1.2.826.0.1.5", plan=plan() if with_plan else None)


# Odd sizes on purpose: 5 x 6 x 7 voxels, numbers that no 16-character decimal holds exactly.
GRID = Grid((5, 7, 9), (3.0, 2.5, 2.123456789012345), (-100.12345678901234, 10 / 3, 7.1))


def dose(seed: int = 0, top_gy: float = 70.0, grid: Grid = GRID) -> np.ndarray:
    return np.random.default_rng(seed).random(grid.shape) * top_gy


@pytest.mark.skipif(VALIDATOR is None, reason="dciodvfy is not installed (Debian: apt-get install dicom3tools)")
@pytest.mark.parametrize("with_plan", [True, False])
def test_an_independent_validator_finds_no_error(tmp_path: Path, with_plan: bool) -> None:
    write_dose(tmp_path / "dose.dcm", dose(), GRID, origin(with_plan), "a" * 64)
    found = subprocess.run([str(VALIDATOR), str(tmp_path / "dose.dcm")], capture_output=True, text=True, check=False)
    lines = (found.stdout + found.stderr).splitlines()
    assert "RTDose" in lines  # it knew what it looked at
    assert not [line for line in lines if line.startswith("Error")]
    # The validator of 2022 does not know PLAN_OVERVIEW; with a plan nothing is left to say.
    assert not with_plan or not [line for line in lines if line.startswith("Warning")]


@pytest.mark.skipif(VALIDATOR is None, reason="dciodvfy is not installed (Debian: apt-get install dicom3tools)")
def test_the_validator_would_find_one(tmp_path: Path) -> None:
    write_dose(tmp_path / "dose.dcm", dose(), GRID, origin())
    broken = pydicom.dcmread(tmp_path / "dose.dcm")
    del broken.DoseUnits
    broken.save_as(tmp_path / "broken.dcm")
    found = subprocess.run([str(VALIDATOR), str(tmp_path / "broken.dcm")], capture_output=True, text=True, check=False)
    assert "Error" in found.stderr


@settings(max_examples=25)
@given(
    shape=st.tuples(st.integers(2, 6), st.integers(1, 6), st.integers(1, 6)),
    spacing=st.tuples(*[st.floats(0.3, 20.0)] * 3),
    corner=st.tuples(*[st.floats(-900.0, 900.0)] * 3),
    top_gy=st.floats(0.0, 150.0),
)
def test_two_libraries_read_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    corner: tuple[float, float, float],
    top_gy: float,
) -> None:
    grid = Grid(shape, spacing, corner)
    wanted = dose(1, top_gy, grid)
    path = tmp_path_factory.mktemp("dose") / "dose.dcm"
    write_dose(path, wanted, grid, origin())
    read = pydicom.dcmread(path)
    step_gy = float(read.DoseGridScaling)
    assert step_gy <= max(wanted.max(), 1e-3) / 65535 * 1.000001
    values = np.frombuffer(read.PixelData, "<u2")[: wanted.size].reshape(shape) * step_gy
    np.testing.assert_allclose(values, wanted, atol=0.5001 * step_gy)
    np.testing.assert_array_equal(read.pixel_array.reshape(shape) * step_gy, values)
    image = SimpleITK.ReadImage(str(path))
    # SimpleITK gives raw values: DoseGridScaling is the reader's to apply.
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image).reshape(shape) * step_gy, values)
    np.testing.assert_allclose(image.GetOrigin(), corner[::-1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(image.GetSpacing(), spacing[::-1], rtol=1e-6)
    np.testing.assert_allclose(image.GetDirection(), np.eye(3).ravel(), atol=1e-9)


def test_what_planning_systems_want_is_there_and_says_research(tmp_path: Path) -> None:
    write_dose(tmp_path / "dose.dcm", dose(), GRID, origin(), adapter="f" * 64)
    read = pydicom.dcmread(tmp_path / "dose.dcm")
    assert [keyword for keyword in WANTED if keyword not in read] == []
    assert (str(read.PatientName), read.PatientID, read.StudyInstanceUID) == ("Müller^Ada", "P1", "1.2.826.0.1.1")
    assert read.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == "1.2.826.0.1.7"
    assert (read.DoseType, read.DoseSummationType, read.DoseUnits) == ("PHYSICAL", "PLAN", "GY")
    assert read.ContentQualification == "RESEARCH"
    for keyword in ("SeriesDescription", "DoseComment", "DerivationDescription"):
        assert "RESEARCH ONLY" in read[keyword].value
    texts = [element for element in read.iterall() if element.VR == "DS"]
    assert len(texts) == 6
    for element in texts:
        for value in [element.value] if element.VM == 1 else element.value:
            assert len(value.original_string if hasattr(value, "original_string") else str(value)) <= 16


def test_two_files_are_two_objects_of_two_series(tmp_path: Path) -> None:
    for name in "ab":
        write_dose(tmp_path / name, dose(), GRID, origin())
    one, other = (pydicom.dcmread(tmp_path / name) for name in "ab")
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.SeriesInstanceUID != other.SeriesInstanceUID


@pytest.mark.parametrize(
    ("volume", "where", "text"),
    [
        (dose()[:4], origin(), "shape"),
        (-dose(), origin(), "negative"),
        (np.where(dose() > 35, np.nan, 1.0), origin(), "not finite"),
        (dose(), Origin(study=study(), frame_of_reference=""), "FrameOfReferenceUID"),
        (dose(), Origin(study=study(StudyInstanceUID=""), frame_of_reference="1.2"), "StudyInstanceUID"),
        (dose(), Origin(study=study(), frame_of_reference="1.2", plan=Dataset()), "SOPInstanceUID"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(
    tmp_path: Path, volume: np.ndarray, where: Origin, text: str
) -> None:
    with pytest.raises(InputError, match=text):
        write_dose(tmp_path / "dose.dcm", volume, GRID, where)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_dose(tmp_path / "file" / "dose.dcm", dose(), GRID, origin())

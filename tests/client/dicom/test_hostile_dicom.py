"""Studies that were made to do harm, or were mixed up: each a clear line, and the patient beside it is read."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from client.names.records import Roi
from client.planes import masks as dicom_masks
from client.planes import rasterise
from client.planes.masks import Rasteriser
from client.setup.check_patient import CheckedPatient
from client.setup.check_patients import Source, look
from client.site.config import DICOM
from client.site.pseudonyms import Pseudonyms
from shared_model.core.errors import InputError
from tests.builders.small_study import write_small_study

Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("two")
    for index in range(2):
        write_small_study(root / f"p{index}", index)
    return root


@pytest.fixture
def folder(two: Path, tmp_path: Path) -> Path:
    shutil.copytree(two, tmp_path / "in")
    return tmp_path / "in"


def edited(path: Path, change: Callable[[Dataset], object]) -> None:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def looked(folder: Path) -> tuple[list[CheckedPatient], str]:
    """The rows, and everything that was said."""
    found = look(Source(kind=DICOM, root=folder, pseudonyms=Pseudonyms(bytes(32))), None)
    said = "\n".join(f"{row.why} {row.todo} {row.notes}" for row in found.patients)
    said += "\n".join(problem.reason for problem in found.file_problems)
    for secret in ("Phantom", "PHANTOM", "1.2.826", str(folder)):
        assert secret not in said
    return list(found.patients), said


def contour(item: Dataset, points: np.ndarray) -> None:
    item["ContourData"]._value = "\\".join(map("{:.4f}".format, points.ravel()))  # as text: pydicom takes half a minute
    item.NumberOfContourPoints = len(points)


def square(height: float, half: float = 60.0) -> np.ndarray:
    return np.array([[-half, -half, height], [half, -half, height], [half, half, height], [-half, half, height]])


def a_contour_of_300_000_points(folder: Path) -> None:
    def change(dataset: Dataset) -> None:
        item = dataset.ROIContourSequence[0].ContourSequence[0]
        angle = np.linspace(0, 2 * np.pi, 300_000, endpoint=False)
        height = np.full(len(angle), float(item.ContourData[2]))
        contour(item, np.stack([40 * np.cos(angle), 40 * np.sin(angle), height], axis=1))

    edited(folder / "p0" / "rs.dcm", change)


def planes_without_number(folder: Path) -> None:
    def change(dataset: Dataset) -> None:
        roi = dataset.ROIContourSequence[0]
        first, made = roi.ContourSequence[0], []
        for k in range(120):
            made.append(copy.deepcopy(first))
            contour(made[-1], square(-60.0 + k))
        roi.ContourSequence = made

    edited(folder / "p0" / "rs.dcm", change)


def a_far_isocentre(folder: Path) -> None:
    def change(dataset: Dataset) -> None:
        for beam in dataset.BeamSequence:
            beam.ControlPointSequence[0].IsocenterPosition = [9000, 9000, 9000]

    edited(folder / "p0" / "rp.dcm", change)


def beams_without_number(folder: Path) -> None:
    def change(dataset: Dataset) -> None:
        points = []
        for k in range(2000):
            point = Dataset()
            point.ControlPointIndex, point.GantryAngle = k, k % 360
            points.append(point)
        for beam in dataset.BeamSequence:
            beam.ControlPointSequence = [beam.ControlPointSequence[0], *points]

    edited(folder / "p0" / "rp.dcm", change)


def spacing_that_is_no_number(folder: Path) -> None:
    for path in (folder / "p0" / "CT").iterdir():
        dataset = pydicom.dcmread(path)
        with pydicom.config.disable_value_validation():
            dataset["PixelSpacing"]._value = ["nan", "nan"]
            dataset.save_as(path)


def one_instance_twice(folder: Path) -> None:
    uid = pydicom.dcmread(folder / "p0" / "CT" / "ct_000.dcm").SOPInstanceUID
    for path in (folder / "p1" / "CT").iterdir():
        edited(path, lambda dataset: setattr(dataset, "SOPInstanceUID", uid))


def another_frame(folder: Path) -> None:
    edited(folder / "p0" / "rd.dcm", lambda dataset: setattr(dataset, "FrameOfReferenceUID", "1.2.826.0.1.99"))


def a_slice_of_another_patient(folder: Path) -> None:
    edited(folder / "p0" / "CT" / "ct_003.dcm", lambda dataset: setattr(dataset, "PatientID", "Phantom Doe"))


def targets_without_number(folder: Path) -> None:
    def change(dataset: Dataset) -> None:
        body = dataset.ROIContourSequence[0]
        for k in range(30):
            named, drawn, seen = Dataset(), copy.deepcopy(body), Dataset()
            named.ROINumber = drawn.ReferencedROINumber = seen.ReferencedROINumber = 100 + k
            named.ROIName, seen.RTROIInterpretedType = f"PTV_{3000 + 100 * k}", "PTV"
            dataset.StructureSetROISequence.append(named)
            dataset.ROIContourSequence.append(drawn)
            dataset.RTROIObservationsSequence.append(seen)

    edited(folder / "p0" / "rs.dcm", change)


@pytest.mark.parametrize(
    ("change", "usable", "says"),
    [
        (a_contour_of_300_000_points, 2, ""),
        (planes_without_number, 2, "left out: contours on or between 120 planes"),
        (a_far_isocentre, 2, "no plates: plan: an isocentre lies"),
        (beams_without_number, 2, "no plates: plan: beams from 5005 directions"),
        (spacing_that_is_no_number, 1, "PixelSpacing: expected 2 numbers"),
        (one_instance_twice, 1, "a second file of one instance"),
        (another_frame, 1, "different Frames of Reference"),
        (a_slice_of_another_patient, 1, "different patient ids"),
        (targets_without_number, 1, "targets with prescriptions; expected at most 12"),
    ],
)
def test_it_is_one_clear_line_and_the_other_patient_is_read(
    folder: Path, change: Change, usable: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rasterise, "_MAX_PLANES", 100)  # of 24 slices
    change(folder)
    rows, said = looked(folder)
    assert sum(row.usable for row in rows) == usable
    assert says in said
    assert all(len(row.why) == len(row.todo) for row in rows)


def test_each_of_several_reasons_has_its_own_line(folder: Path) -> None:
    dataset = pydicom.dcmread(folder / "p1" / "rd.dcm")
    plan = pydicom.dcmread(folder / "p0" / "rp.dcm")
    dataset.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID = plan.SOPInstanceUID
    dataset.save_as(folder / "p1" / "rd.dcm")
    rows, _ = looked(folder)
    (row,) = [row for row in rows if len(row.why) == 2]
    assert row.why[0] == "its files carry different patient ids (PatientID)"
    assert row.todo[0] == "export them of one patient"
    assert "Frames of Reference" in row.why[1]


def test_scribbles_of_a_patient_count_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from client.dicom.find import find_studies
    from client.dicom.images import case_grid, stack

    monkeypatch.setattr(dicom_masks, "MAX_CROSSINGS", 8_000_000 // 60)
    ct = stack(find_studies(folder / "p0").studies[0].ct)
    rasteriser = Rasteriser(ct.lattice, case_grid(ct, *ct.lattice.corners_mm()))
    down = np.tile([-90.0, 90.0], 500)
    points = np.stack([np.linspace(-90, 90, len(down)), down, np.zeros(len(down))], axis=1)
    roi = Roi(number=1, name="x", kind="", points_mm=points, counts=np.array([len(points)]))
    assert rasteriser.mask(roi)[0].any()
    with pytest.raises(InputError, match="cross rows more than"):
        rasteriser.mask(roi)

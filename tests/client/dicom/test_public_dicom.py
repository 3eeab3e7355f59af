"""RT objects of real planning systems that other packages ship with their tests; none of them is kept here.

FEDKT3D_PUBLIC_DICOM names a folder with unpacked source distributions (docs/dicom.md says which and how).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from client.dicom.find import find_studies
from client.dicom.join import DicomStudy
from client.dicom.study import read_case
from client.names.rules import NameRules
from shared_model.core.errors import InputError

ENVIRONMENT = "FEDKT3D_PUBLIC_DICOM"
SLICE_MM = 3.0


def _folder(pattern: str) -> Path:
    root = os.environ.get(ENVIRONMENT)
    if not root:
        pytest.skip(f"{ENVIRONMENT} is not set: no folder of public DICOM-RT sets")
    found = sorted(Path(root).glob(pattern))
    if not found:
        pytest.skip(f"{ENVIRONMENT}: no {pattern} in it")
    return found[0]


def _only(folder: Path) -> DicomStudy:
    found = find_studies(folder)
    assert found.problems == ()
    (study,) = found.studies
    return study


def test_what_pynetdicom_ships_is_read_or_refused_in_one_line() -> None:
    """Part of the intake extra: a CT, an RT image, MR, and a CT with damaged meta information."""
    spec = importlib.util.find_spec("pynetdicom")
    folder = None if spec is None or spec.origin is None else Path(spec.origin).parent / "tests" / "dicom_files"
    if folder is None or not folder.is_dir():
        pytest.skip("pynetdicom is not installed with its test files")
    found = find_studies(folder)
    assert found.files >= 5
    (study,) = found.studies
    assert study.problems == ("no structure set (RTSTRUCT) for this CT",)
    assert all("\n" not in problem.line() for problem in found.problems)


def test_plans_of_pymedphys_want_their_structure_sets() -> None:
    found = find_studies(_folder("pymedphys-*"))
    assert found.problems == ()
    assert len(found.studies) == 4
    for study in found.studies:
        with pytest.raises(InputError, match="no structure set"):
            read_case(study)


def test_structures_of_dicomrttool_want_their_ct() -> None:
    with pytest.raises(InputError, match="no CT for this structure set"):
        read_case(_only(_folder("dicomrttool-*")))


@pytest.fixture
def rules(tmp_path: Path) -> NameRules:
    (tmp_path / "names.yaml").write_text('prescriptions_gy: {"Tumor Bed": 14.0}\nnames: {Heart: ["heart"]}\n')
    return NameRules.load(tmp_path / "names.yaml")


def test_one_slice_of_a_clinical_plan_is_refused(rules: NameRules) -> None:
    study = _only(_folder("dicompyler-core-*/tests/testdata/example_data"))
    with pytest.raises(InputError, match="no target with a prescription"):
        read_case(study)
    with pytest.raises(InputError, match="a single slice"):
        read_case(study, rules)


def test_a_clinical_plan_with_its_slices_filled_in_is_read(rules: NameRules, tmp_path: Path) -> None:
    """Structures, plan and dose are the planning system's own; the one CT slice stands for all that they name."""
    folder = _folder("dicompyler-core-*/tests/testdata/example_data")
    for name in ("rtss.dcm", "rtplan.dcm", "rtdose.dcm"):
        shutil.copy(folder / name, tmp_path)
    _fill_in(folder, tmp_path)
    study = _only(tmp_path)
    assert len(study.ct) == 98
    reading = read_case(study, rules)
    case, plan = reading.case, reading.plan
    assert plan is not None
    assert len(plan.beams) == 4
    assert plan.fractions == 7
    assert case.beam_plate is not None
    assert case.targets == ("PTV_1400",)  # of the targets one has a prescription
    target, dose = case.structures["PTV_1400"], case.dose_gy
    assert dose is not None
    volume_cc = target.sum() * np.prod(case.grid.spacing_mm) / 1000
    assert volume_cc == pytest.approx(_drawn_cc(folder, "Tumor Bed"), rel=0.05)
    planned = pydicom.dcmread(folder / "rtdose.dcm")
    assert dose.max() == pytest.approx(planned.pixel_array.max() * float(planned.DoseGridScaling), rel=0.02)
    assert 0.9 < dose[target].mean() / 14.0 < 1.05


def _drawn_cc(folder: Path, name: str) -> float:
    """Area of every contour times the distance of the slices."""
    dataset = pydicom.dcmread(folder / "rtss.dcm")
    (number,) = (roi.ROINumber for roi in dataset.StructureSetROISequence if roi.ROIName == name)
    (roi,) = (roi for roi in dataset.ROIContourSequence if roi.ReferencedROINumber == number)
    area = 0.0
    for contour in roi.ContourSequence:
        x, y, _ = np.array(contour.ContourData, dtype=float).reshape(-1, 3).T
        area += abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2
    return area * SLICE_MM / 1000


def _fill_in(folder: Path, out: Path) -> None:
    dataset = pydicom.dcmread(folder / "ct.0.dcm")
    x, y, last = (float(value) for value in dataset.ImagePositionPatient)
    for index in range(98):
        uid = dataset.SOPInstanceUID if index == 0 else generate_uid(entropy_srcs=[str(index)])
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
        dataset.ImagePositionPatient = [x, y, round(last - SLICE_MM * index, 4)]
        dataset.SliceLocation = dataset.ImagePositionPatient[2]
        dataset.save_as(out / f"ct.{index}.dcm")

"""Studies whose files are valid and do not quite belong together: what is in doubt is refused or asked about."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from scipy import ndimage

from client.dicom.find import find_studies
from client.dicom.join import DicomStudy
from client.dicom.study import Reading, read_case, read_names
from client.names.rules import NameRules
from client.prediction.subject import load_subject
from client.setup.check_patients import Source, look
from client.site.config import DICOM
from client.site.pseudonyms import Pseudonyms
from shared_model.core.errors import InputError
from simulations.phantom.planes import Scan
from tests.builders.small_study import ellipsoid_case, write_small_study


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with two targets, of 70 Gy and of 56 Gy below it."""
    case = ellipsoid_case()
    lower = np.roll(case.structures["PTV_7000"], 5, axis=0) & case.body
    made = replace(
        case,
        structures={**case.structures, "PTV_5600": lower},
        prescriptions_gy={"PTV_7000": 70.0, "PTV_5600": 56.0},
    )
    folder = tmp_path_factory.mktemp("whole")
    write_small_study(folder, case=made, scan=Scan())
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "in")
    return tmp_path / "in"


def found(folder: Path) -> DicomStudy:
    (study,) = find_studies(folder).studies
    return study


def exported_again(path: Path) -> None:
    """The structure set as another export of it: an instance of its own, the targets' numbers exchanged."""
    dataset = pydicom.dcmread(path)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    number = {item.ROIName: item.ROINumber for item in dataset.StructureSetROISequence}
    other = {number["PTV_7000"]: number["PTV_5600"], number["PTV_5600"]: number["PTV_7000"]}
    for item in dataset.StructureSetROISequence:
        item.ROINumber = other.get(item.ROINumber, item.ROINumber)
    for item in (*dataset.ROIContourSequence, *dataset.RTROIObservationsSequence):
        item.ReferencedROINumber = other.get(item.ReferencedROINumber, item.ReferencedROINumber)
    dataset.save_as(path)


def test_a_plans_numbers_hold_for_the_structure_set_that_it_names_alone(folder: Path) -> None:
    right = {row.name: row.prescription_gy for row in read_names(found(folder)) if row.used}
    exported_again(folder / "rs.dcm")
    reading = read_case(found(folder))
    rows = {row.name: row for row in reading.names if row.used}
    assert {name: row.prescription_gy for name, row in rows.items()} == right
    assert right["PTV_7000"] == 70.0
    assert rows["PTV_7000"].how == "level in the name"
    assert any("refers to another structure set" in note for note in reading.notes)


def stray_clicks(path: Path) -> None:
    """Of each target one contour stays: a click, three equal points."""
    dataset = pydicom.dcmread(path)
    targets = {i.ROINumber for i in dataset.StructureSetROISequence if i.ROIName.startswith("PTV")}
    for item in dataset.ROIContourSequence:
        if item.ReferencedROINumber in targets:
            item.ContourSequence = item.ContourSequence[:1]
            item.ContourSequence[0].ContourData = list(item.ContourSequence[0].ContourData[:3]) * 3
            item.ContourSequence[0].NumberOfContourPoints = 3
    dataset.save_as(path)


def test_targets_without_a_voxel_are_one_row_of_the_table(folder: Path) -> None:
    stray_clicks(folder / "rs.dcm")
    write_small_study(folder / "other", 1)
    rows = look(Source(kind=DICOM, root=folder), None).patients
    (bad,) = [row for row in rows if not row.usable]
    assert len(rows) == 2
    assert bad.why[0] == "PTV_7000: nothing of it lies within the CT"
    assert "contours" in bad.todo[0]


def test_what_nobody_foresaw_is_one_row_of_the_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(study: DicomStudy, *_: object) -> Reading:
        if study.case_id == first:
            raise ZeroDivisionError("PHANTOM-7")
        return read_case(study)

    write_small_study(folder / "other", 1)
    pseudonyms = Pseudonyms(bytes(32))
    first = find_studies(folder, pseudonyms).studies[0].case_id
    monkeypatch.setattr("client.setup.check_patients.read_case", broken)
    rows = look(Source(kind=DICOM, root=folder, pseudonyms=pseudonyms), None).patients
    assert [row.why for row in rows] == [("cannot be read (ZeroDivisionError)",), ()]


def without_frame(ct: Path) -> None:
    """An anonymised CT: its slices have no Frame of Reference."""
    for path in ct.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.FrameOfReferenceUID
        dataset.save_as(path)


def test_a_ct_without_a_frame_of_reference_hides_no_foreign_dose(folder: Path) -> None:
    without_frame(folder / "CT")
    assert any("CT has no Frame of Reference" in note for note in found(folder).notes)
    subject = load_subject(folder)
    assert subject.origin is not None
    assert subject.origin.frame_of_reference == pydicom.dcmread(folder / "rp.dcm").FrameOfReferenceUID
    dataset = pydicom.dcmread(folder / "rd.dcm")
    dataset.FrameOfReferenceUID = "1.2.4"
    dataset.save_as(folder / "rd.dcm")
    (problem,) = found(folder).problems
    assert "different Frames of Reference" in problem


def test_a_study_without_any_frame_of_reference_is_not_predicted_for(folder: Path) -> None:
    without_frame(folder / "CT")
    dataset = pydicom.dcmread(folder / "rs.dcm")
    del dataset.FrameOfReferenceUID, dataset.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID
    dataset.save_as(folder / "rs.dcm")
    for name in ("rp.dcm", "rd.dcm"):
        dataset = pydicom.dcmread(folder / name)
        del dataset.FrameOfReferenceUID
        dataset.save_as(folder / name)
    with pytest.raises(InputError, match="no file of the plan has a Frame of Reference"):
        load_subject(folder)


def changed(path: Path, **elements: object) -> None:
    dataset = pydicom.dcmread(path)
    for keyword, content in elements.items():
        setattr(dataset, keyword, content)
    dataset.save_as(path)


def test_a_dose_of_a_fraction_group_is_the_plans_where_there_is_one(folder: Path) -> None:
    changed(folder / "rd.dcm", DoseSummationType="FRACTION")
    assert read_case(found(folder)).case.dose_gy is not None
    groups = pydicom.dcmread(folder / "rp.dcm").FractionGroupSequence
    changed(folder / "rp.dcm", FractionGroupSequence=[*groups, *groups])
    with pytest.raises(InputError, match="of one fraction group, and the plan has 2"):
        read_case(found(folder))
    (folder / "rp.dcm").unlink()
    with pytest.raises(InputError, match="of one fraction group, and there is no plan"):
        read_case(found(folder))


def test_doses_of_beams_are_no_plans_without_the_plan(tmp_path: Path) -> None:
    write_small_study(tmp_path, scan=Scan(beams=True))
    (tmp_path / "rd_1.dcm").unlink()
    (tmp_path / "rp.dcm").unlink()
    with pytest.raises(InputError, match="4 doses of beams, and there is no plan"):
        read_case(found(tmp_path))


@pytest.mark.parametrize("summation", ["FRACTION_SESSION", "BEAM_SESSION", "CONTROL_POINT", "MULTI_PLAN"])
def test_doses_of_another_kind_are_refused_though_they_name_a_beam(summation: str, tmp_path: Path) -> None:
    write_small_study(tmp_path, scan=Scan(beams=True))
    for path in tmp_path.glob("rd_*.dcm"):
        changed(path, DoseSummationType=summation)
    with pytest.raises(InputError, match="DoseSummationType is another one"):
        read_case(found(tmp_path))


def with_shell(folder: Path, *, external: bool) -> None:
    """Add an organ SKIN, a shell of 7 mm beneath the body's outline; without ``external`` it is all there is of him."""
    case = ellipsoid_case()
    shell = case.body & ~ndimage.binary_erosion(case.body, np.ones((1, 3, 3)))
    made = replace(case, structures={**case.structures, "Larynx": shell})
    write_small_study(folder, case=made, scan=Scan(names={"Larynx": "SKIN"}))
    if not external:
        dataset = pydicom.dcmread(folder / "rs.dcm")
        for item in dataset.StructureSetROISequence:
            if item.ROIName == "BODY":
                item.ROIName = "zz_1"
        for item in dataset.RTROIObservationsSequence:
            if item.RTROIInterpretedType == "EXTERNAL":
                item.RTROIInterpretedType = "CONTROL"
        dataset.save_as(folder / "rs.dcm")


@pytest.mark.parametrize("external", [True, False])
def test_a_shell_of_skin_is_not_the_body(external: bool, tmp_path: Path) -> None:
    with_shell(tmp_path, external=external)
    reading = read_case(found(tmp_path))
    assert reading.case.body[reading.case.structures["PTV_7000"]].all()
    assert any("no outline was drawn" in note for note in reading.notes) != external


def test_targets_outside_the_body_are_refused(tmp_path: Path) -> None:
    with_shell(tmp_path, external=False)
    with pytest.raises(InputError, match=r"% of the targets lie outside the body's outline"):
        read_case(found(tmp_path), NameRules.parse("names: {Body: [SKIN]}", "structures.yaml"))

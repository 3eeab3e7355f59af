"""Files as other systems write them: what can be read is read, the rest is refused with what to do."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from client.setup import check as preflight
from client.setup.check_patients import Source
from client.site.config import DICOM
from tests.builders.neck_reading import PSEUDONYMS, cc, checked, dose_of, found, read, refusal
from tests.builders.neck_study import NeckStudy, beam, doses_gy, plan_dose_gy, prescription, volume_cc


def bare(path: Path, *, implicit: bool, first: str) -> None:
    """Rewrite a file as a data set alone: no preamble, no file meta information."""
    from pydicom import dcmread

    made = dcmread(path)
    if first == "group length":
        made.add_new(0x00080000, "UL", 0)
    else:
        del made.SpecificCharacterSet
        if first == "0008,0012":
            if "ImageType" in made:
                del made.ImageType
            made.InstanceCreationDate = "20260101"
    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = implicit, True
    plain = Dataset()
    plain.update(made)
    write_dataset(out, plain)
    path.write_bytes(out.getvalue())


@pytest.mark.parametrize("implicit", [True, False], ids=["implicit", "explicit"])
@pytest.mark.parametrize("first", ["group length", "0008,0012", "0008,0008"])
def test_data_sets_without_preamble_and_meta_information(first: str, implicit: bool, tmp_path: Path) -> None:
    study = NeckStudy("bare")
    study.write(tmp_path)
    for path in tmp_path.rglob("*.dcm"):
        bare(path, implicit=implicit, first=first)
        assert path.read_bytes()[128:132] != b"DICM"
    (plan,) = found(tmp_path).studies
    from client.dicom.study import read_case

    reading = read_case(plan)
    assert cc(reading, "PTV_7000") == pytest.approx(volume_cc("PTV_7000"), rel=0.02)
    assert float(dose_of(reading, "PTV_7000").mean()) == pytest.approx(doses_gy("PTV_7000").mean(), rel=0.01)
    assert reading.case.ct_hu is not None
    assert float(np.median(reading.case.ct_hu[reading.case.body])) == 30.0


def test_an_enhanced_ct_is_named_with_what_to_do(tmp_path: Path) -> None:
    study = NeckStudy("enhanced")
    study.ct = [study.made("1.2.840.10008.5.1.4.1.1.2.1", "CT", "enhanced")]
    study.write(tmp_path)
    (problem,) = found(tmp_path).problems
    assert problem.reason.startswith("Enhanced CT (several slices in one file) is not read; export the series as CT")
    assert "no CT for this structure set" in checked(tmp_path).why[0]


def in_planes(study: NeckStudy) -> list[Dataset]:
    """The dose as files of one plane each."""
    whole = study.doses[0]
    frames = int(whole.NumberOfFrames)
    pixels = np.frombuffer(whole.PixelData, "<u4").reshape(frames, whole.Rows, whole.Columns)
    planes = []
    for k in range(frames):
        made = copy.deepcopy(whole)
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = study.uid(f"plane {k}")
        del made.NumberOfFrames, made.GridFrameOffsetVector, made.FrameIncrementPointer
        made.ImagePositionPatient[2] = float(whole.ImagePositionPatient[2]) + float(whole.GridFrameOffsetVector[k])
        made.PixelData = pixels[k].tobytes()
        planes.append(made)
    return planes


def test_a_dose_in_one_file_a_plane(tmp_path: Path) -> None:
    study = NeckStudy("planes")
    study.doses = in_planes(study)
    reading = read(study, tmp_path / "whole")
    assert float(dose_of(reading, "PTV_7000").mean()) == pytest.approx(doses_gy("PTV_7000").mean(), rel=0.01)
    assert "dose: one grid of 31 files, a plane each" in reading.notes
    del study.doses[12]
    assert "planes that make no grid" in refusal(study, tmp_path / "one lost")


def dvh_only(study: NeckStudy) -> Dataset:
    made = study.made("1.2.840.10008.5.1.4.1.1.481.2", "RTDOSE", "dvh")
    made.DoseUnits, made.DoseType, made.DoseSummationType = "GY", "PHYSICAL", "PLAN"
    made.ReferencedRTPlanSequence = study.doses[0].ReferencedRTPlanSequence
    made.DVHSequence = [Dataset()]
    return made


def test_a_dvh_beside_the_dose_is_no_second_dose(tmp_path: Path) -> None:
    study = NeckStudy("dvh")
    study.doses.append(dvh_only(study))
    reading = read(study, tmp_path / "beside")
    assert float(dose_of(reading, "PTV_7000").mean()) == pytest.approx(doses_gy("PTV_7000").mean(), rel=0.01)
    assert "1 RTDOSE without a grid of dose, such as a DVH alone, left out" in reading.notes
    study.doses = study.doses[1:]
    study.write(tmp_path / "alone")
    row = checked(tmp_path / "alone")
    assert row.why == ("no dose",)
    assert any("DVH alone" in note for note in row.notes)


@pytest.mark.parametrize("keyword", ["IsocenterPosition", "GantryAngle"])
def test_a_beam_of_no_place_or_angle_gives_no_plates(keyword: str, tmp_path: Path) -> None:
    study = NeckStudy(keyword)
    assert study.plan is not None
    for item in study.plan.BeamSequence[:2]:
        setattr(item.ControlPointSequence[0], keyword, None)
    reading = read(study, tmp_path)
    assert reading.case.beam_plate is None
    assert reading.case.prescriptions_gy == {"PTV_7000": 70.0, "PTV_5600": 56.0}
    says = "no plates: plan: IsocenterPosition or GantryAngle is empty in 2 of 5 beams"
    assert says in reading.notes


def test_a_prescription_of_zero_is_none(tmp_path: Path) -> None:
    study = NeckStudy("zero")
    assert study.plan is not None
    study.plan.DoseReferenceSequence[1].TargetPrescriptionDose = "0"
    reading = read(study, tmp_path)
    assert reading.case.prescriptions_gy == {"PTV_7000": 70.0, "PTV_5600": 56.0}
    assert "plan: a prescription of 0 Gy to 1 targets was taken as none" in reading.notes


def test_a_prescription_in_cgy_says_what_to_do(tmp_path: Path) -> None:
    study = NeckStudy("cGy")
    assert study.plan is not None
    study.plan.DoseReferenceSequence = [prescription(1, 7000, roi=2), prescription(2, 5600, roi=3)]
    assert "TargetPrescriptionDose: expected 0 to 200 Gy; is it in cGy?" in refusal(study, tmp_path)


def test_a_plan_of_230_beams(tmp_path: Path) -> None:
    study = NeckStudy("beams")
    assert study.plan is not None
    study.plan.BeamSequence = [beam(k, 1.5 * k % 360) for k in range(230)]
    reading = read(study, tmp_path)
    assert reading.plan is not None
    assert len(reading.plan.beams) == 230
    assert reading.case.beam_plate is not None


def test_contours_of_a_structure_that_is_not_listed_are_left_out(tmp_path: Path) -> None:
    study = NeckStudy("dangling")
    number = study.number("Larynx")
    listed = study.structures.StructureSetROISequence
    study.structures.StructureSetROISequence = [item for item in listed if item.ROINumber != number]
    reading = read(study, tmp_path)
    assert "Larynx" not in reading.case.structures
    assert "RTSTRUCT: contours of 1 structures without a name were left out" in reading.notes
    assert cc(reading, "PTV_7000") == pytest.approx(volume_cc("PTV_7000"), rel=0.02)


def test_one_bad_contour_loses_its_structure_alone(tmp_path: Path) -> None:
    study = NeckStudy("count")
    study.drawn("Larynx").ContourSequence[0].NumberOfContourPoints = 7
    reading = read(study, tmp_path)
    assert "Larynx" not in reading.case.structures
    assert any(note.startswith("Larynx: left out: ContourData: its length is not") for note in reading.notes)
    study.drawn("PTV_7000").ContourSequence[0].NumberOfContourPoints = 7
    assert "a target of 70 Gy is not used: ContourData: its length" in refusal(study, tmp_path)


def test_a_structure_set_without_a_frame_of_reference(tmp_path: Path) -> None:
    study = NeckStudy("no frame")
    del study.structures.ReferencedFrameOfReferenceSequence, study.structures.FrameOfReferenceUID
    reading = read(study, tmp_path)
    assert cc(reading, "PTV_7000") == pytest.approx(volume_cc("PTV_7000"), rel=0.02)
    assert "CT joined by the images that the contours refer to" in reading.notes


def test_a_dose_that_covers_half_of_a_target_is_not_usable(tmp_path: Path) -> None:
    study = NeckStudy("half")
    study.doses = [study.dose(low_mm=(-80, -84, 4))]
    reading = read(study, tmp_path)
    assert reading.case.dose_gy is None
    row = checked(tmp_path)
    assert not row.usable
    (why,) = row.why
    assert why.startswith("dose: its grid covers")
    assert "of PTV_7000" in why
    assert row.todo == ("calculate and export the dose on a grid that covers the targets",)


def test_patients_are_counted_not_plans(tmp_path: Path) -> None:
    study = NeckStudy("plans", patient="ONE")
    study.second_plan("boost", gy=lambda p: 1.02 * plan_dose_gy(p))
    study.write(tmp_path / "a")
    NeckStudy("other", patient="TWO", slice_mm=5.0).write(tmp_path / "b")
    report = preflight.check(Source(kind=DICOM, root=tmp_path, pseudonyms=PSEUDONYMS), None, None)
    assert (report.usable, report.total) == (2, 2)
    assert preflight.lines(report, show_ids=False)[0].startswith("2 of 2 patients are usable (dicom, 3 plans, ")


def test_a_refusal_leads_to_its_file(tmp_path: Path) -> None:
    study = NeckStudy("path")
    study.doses[0].DoseGridScaling = "0"
    study.write(tmp_path)
    (tmp_path / "cut.dcm").write_bytes((tmp_path / "rs.dcm").read_bytes()[:2000])
    report = preflight.check(Source(kind=DICOM, root=tmp_path, pseudonyms=PSEUDONYMS), None, None)
    open_lines, hidden = (preflight.lines(report, show_ids=show) for show in (True, False))
    assert any(str(tmp_path / "cut.dcm") in line and "cut short" in line for line in open_lines)
    line = next(line for line in open_lines if "DoseGridScaling" in line)
    assert f"RTDOSE {tmp_path / 'rd0.dcm'}" in line
    assert "calculate the dose before its export" in line
    assert str(tmp_path) not in "\n".join(hidden)

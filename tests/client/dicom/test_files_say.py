"""Nothing is assumed that a file says: frames of reference, numbers, units, images, approval, kinds of treatment."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from client.data.dicom_cohort import trainable
from client.dicom.find import find_studies
from client.names.rules import NameRules
from client.site.pseudonyms import Pseudonyms
from tests.builders.neck_reading import cc, checked, dose_of, found, read, refusal
from tests.builders.neck_study import NeckStudy, decimals, doses_gy, plan_dose_gy, volume_cc


def moved(contours: list[Dataset], by_mm: tuple[float, float, float]) -> None:
    """Contours at other coordinates, as of another image."""
    for contour in contours:
        points = np.array(contour.ContourData, dtype=float).reshape(-1, 3) + by_mm
        contour.ContourData = decimals(points)
        del contour.ContourImageSequence


def test_a_structure_of_an_mr_is_not_drawn_on_the_ct(tmp_path: Path) -> None:
    """Where its contours would lie on the CT, the dose is several times the parotid's."""
    study = NeckStudy("mr")
    other = copy.deepcopy(study.structures.ReferencedFrameOfReferenceSequence[0])
    other.FrameOfReferenceUID = study.listed("Parotid_L").ReferencedFrameOfReferenceUID = study.uid("MR frame")
    study.structures.ReferencedFrameOfReferenceSequence.append(other)
    moved(study.drawn("Parotid_L").ContourSequence, (-40, -28, -24))
    reading = read(study, tmp_path)
    assert "Parotid_L" not in reading.case.structures
    assert any(n.startswith("Parotid_L: left out: it was drawn in another Frame of Ref") for n in reading.notes)
    assert cc(reading, "Parotid_R") == pytest.approx(volume_cc("Parotid_R"), rel=0.04)


def test_a_target_of_an_mr_stops_the_patient(tmp_path: Path) -> None:
    study = NeckStudy("mr target")
    study.listed("PTV_7000").ReferencedFrameOfReferenceUID = study.uid("MR frame")
    moved(study.drawn("PTV_7000").ContourSequence, (-25, -30, -12))
    assert "another Frame of Reference" in refusal(study, tmp_path)


@pytest.mark.parametrize("first", [True, False])
def test_structures_that_share_a_number_are_not_used(first: bool, tmp_path: Path) -> None:
    study = NeckStudy("number")
    outlines = [study.shapes["Larynx"].outline(z) for z in study.heights]
    study.add_roi(study.number("SpinalCord"), "Thyroid", "ORGAN", [o for o in outlines if o is not None])
    if first:
        for name in ("StructureSetROISequence", "ROIContourSequence", "RTROIObservationsSequence"):
            sequence = getattr(study.structures, name)
            sequence.insert(0, sequence.pop())
    reading = read(study, tmp_path)
    assert "SpinalCord" not in reading.case.structures
    assert any("2 structures share a ROINumber" in note for note in reading.notes)
    assert cc(reading, "Larynx") == pytest.approx(volume_cc("Larynx"), rel=0.04)


def test_a_target_that_shares_a_number_stops_the_patient(tmp_path: Path) -> None:
    study = NeckStudy("target's number")
    study.add_roi(study.number("PTV_7000"), "GTV_node", "GTV", [])
    assert "its ROINumber is another structure's too" in refusal(study, tmp_path)


@pytest.mark.parametrize("kind", ["ED", "US", "HU_MOD", "Z_EFF"])
def test_a_ct_in_other_units_is_refused(kind: str, tmp_path: Path) -> None:
    study = NeckStudy(kind)
    for made in study.ct:
        made.RescaleType = kind
    assert "RescaleType: expected HU" in refusal(study, tmp_path)


def with_contrast_ct(study: NeckStudy) -> None:
    """A second series of the same scanner position, longer, and 200 HU higher."""
    for k, made in enumerate(study.ct):
        for shift in (0.0, 200.0):
            other = copy.deepcopy(made)
            if shift and k < len(study.ct) - 4:
                continue
            other.SeriesInstanceUID = study.uid("series contrast")
            other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = study.uid(f"contrast {k} {shift}")
            other.ImagePositionPatient[2] = float(made.ImagePositionPatient[2]) + (16.0 if shift else 0.0)
            other.RescaleIntercept = "-824"
            study.extra.append(other)


@pytest.mark.parametrize("lost", ["references", "frame"])
def test_contours_choose_the_ct_by_the_images_that_they_refer_to(lost: str, tmp_path: Path) -> None:
    study = NeckStudy("contrast")
    with_contrast_ct(study)
    if lost == "references":
        del study.structures.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    else:  # nor does the structure set name a Frame of Reference
        del study.structures.ReferencedFrameOfReferenceSequence, study.structures.FrameOfReferenceUID
    reading = read(study, tmp_path)
    assert reading.case.ct_hu is not None
    assert float(np.median(reading.case.ct_hu[reading.case.body])) == 30.0
    assert "CT joined by the images that the contours refer to" in reading.notes


def test_two_cts_and_no_word_of_which_are_refused(tmp_path: Path) -> None:
    study = NeckStudy("which")
    with_contrast_ct(study)
    del study.structures.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    for drawn in study.structures.ROIContourSequence:
        for contour in drawn.ContourSequence:
            del contour.ContourImageSequence
    assert "2 CT series are possible" in refusal(study, tmp_path)


def test_a_rejected_plan_is_never_chosen(tmp_path: Path) -> None:
    study = NeckStudy("rejected")
    study.second_plan("rejected", gy=lambda p: 0.9 * plan_dose_gy(p), ApprovalStatus="REJECTED")
    study.write(tmp_path)
    for salt in range(24):  # the order of plans follows from the pseudonyms
        studies = find_studies(tmp_path, Pseudonyms(bytes([salt] * 32)))
        (chosen,) = trainable(studies, NameRules())
        plan = studies.study(chosen).plan
        assert plan is not None
        assert plan.path.name == "rp.dcm"
    (bad,) = [s for s in studies.studies if s.problems]
    assert "ApprovalStatus is REJECTED" in bad.problems[0]


def test_an_approved_plan_goes_before_one_that_is_not(tmp_path: Path) -> None:
    study = NeckStudy("unapproved")
    study.second_plan("draft", ApprovalStatus="UNAPPROVED")
    study.write(tmp_path)
    for salt in range(12):
        studies = find_studies(tmp_path, Pseudonyms(bytes([salt] * 32)))
        (chosen,) = trainable(studies, NameRules())
        assert studies.study(chosen).approved
    assert any("ApprovalStatus is UNAPPROVED" in note for s in studies.studies for note in s.notes)


@pytest.mark.parametrize("intent", ["VERIFICATION", "MACHINE_QA", "SERVICE"])
def test_a_plan_that_treats_nobody_is_none(intent: str, tmp_path: Path) -> None:
    study = NeckStudy(intent)
    assert study.plan is not None
    study.plan.PlanIntent = intent
    assert f"PlanIntent is {intent}" in refusal(study, tmp_path)


def test_two_doses_of_one_uid_with_other_contents_are_refused(tmp_path: Path) -> None:
    study = NeckStudy("twice")
    study.doses.append(study.dose(gy=lambda p: 0.95 * plan_dose_gy(p)))
    assert "two files of one SOPInstanceUID with different contents" in refusal(study, tmp_path)


def test_a_copy_of_a_dose_is_left_out(tmp_path: Path) -> None:
    study = NeckStudy("copy")
    again = copy.deepcopy(study.doses[0])
    again.file_meta.ImplementationVersionName = "OTHER"  # as another archive wrote it
    study.doses.append(again)
    reading = read(study, tmp_path)
    assert float(dose_of(reading, "PTV_7000").mean()) == pytest.approx(doses_gy("PTV_7000").mean(), rel=0.01)
    (problem,) = found(tmp_path).problems
    assert problem.reason == "RTDOSE: a second file of one instance"


def ion(study: NeckStudy) -> None:
    assert study.plan is not None
    study.plan.SOPClassUID = study.plan.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.8"
    study.plan.IonBeamSequence = study.plan.BeamSequence
    del study.plan.BeamSequence


def radiation(kind: str) -> Callable[[NeckStudy], None]:
    def change(study: NeckStudy) -> None:
        assert study.plan is not None
        study.plan.BeamSequence[0].RadiationType = kind

    return change


def brachytherapy(study: NeckStudy) -> None:
    assert study.plan is not None
    del study.plan.BeamSequence
    setup = Dataset()
    setup.ApplicationSetupType, setup.ApplicationSetupNumber = "FLETCHER_SUIT", 1
    study.plan.ApplicationSetupSequence = [setup]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (ion, "an ion plan"),
        (radiation("ELECTRON"), "RadiationType ELECTRON"),
        (radiation("PROTON"), "RadiationType PROTON"),
        (brachytherapy, "a brachytherapy plan"),
    ],
    ids=["ion", "electron", "proton", "brachytherapy"],
)
def test_only_photon_plans_are_cases(change: Callable[[NeckStudy], None], says: str, tmp_path: Path) -> None:
    study = NeckStudy("other radiation")
    change(study)
    assert says in refusal(study, tmp_path)
    assert not checked(tmp_path).usable


def test_of_a_physical_and_an_effective_dose_the_physical_one_is_read(tmp_path: Path) -> None:
    study = NeckStudy("effective")
    effective = study.dose("effective", gy=lambda p: 1.1 * plan_dose_gy(p))
    effective.DoseType = "EFFECTIVE"
    study.doses.append(effective)
    reading = read(study, tmp_path)
    assert float(dose_of(reading, "PTV_7000").mean()) == pytest.approx(doses_gy("PTV_7000").mean(), rel=0.01)
    assert any("DoseType EFFECTIVE was left out" in note for note in reading.notes)

"""Joining files into studies: by references and Frame of Reference, each bad file one clear line, no word of PHI."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest

from client.dicom.find import Findings, find_studies
from client.dicom.join import DicomStudy
from client.dicom.study import read_case
from client.site.pseudonyms import Pseudonyms
from shared_model.core.errors import InputError
from simulations.phantom.planes import Scan
from tests.builders.dicom_study import PSEUDONYMS, written


@pytest.fixture(scope="module")
def two_patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patients' studies; to be copied, not changed."""
    root = tmp_path_factory.mktemp("two")
    for number in range(2):
        written(root / f"p{number}", Scan(), seed=number, edge=12, number=number)
    return root


@pytest.fixture
def folder(two_patients: Path, tmp_path: Path) -> Path:
    """A copy of both."""
    shutil.copytree(two_patients, tmp_path / "in")
    return tmp_path / "in"


def _change(path: Path, change: Callable[[pydicom.Dataset], object]) -> None:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def _find(folder: Path) -> Findings:
    return find_studies(folder, PSEUDONYMS)


def _of(found: Findings, folder: str) -> DicomStudy:
    """The study whose CT lies in ``folder``."""
    return next(study for study in found.studies if study.ct and folder in study.ct[0].path.parts)


def test_all_files_in_one_folder_under_any_name(folder: Path) -> None:
    heap = folder.parent / "heap"
    heap.mkdir()
    for number, path in enumerate(sorted(folder.rglob("*.dcm"), key=lambda p: hash(p.name))):
        path.rename(heap / f"IM{number:06d}")
    (heap / "notes.txt").write_text("no DICOM")
    (heap / "DICOMDIR").write_bytes(b"\0" * 200)
    found = _find(heap)
    assert len(found.studies) == 2
    assert found.other == 1
    assert found.problems == ()
    for study in found.studies:
        assert len({header.series for header in study.ct}) == 1
        assert {header.study for header in (*study.ct, *study.doses)} == {study.ct[0].study}
        assert study.problems == study.notes == ()


def test_case_ids_are_pseudonyms_that_hold_with_the_salt(folder: Path) -> None:
    found = _find(folder)
    assert [s.case_id for s in _find(folder).studies] == [s.case_id for s in found.studies]
    other = find_studies(folder, Pseudonyms(bytes(32)))
    assert not {s.case_id for s in other.studies} & {s.case_id for s in found.studies}
    assert len({study.patient for study in found.studies}) == 2


def test_nothing_of_a_record_is_shown(folder: Path) -> None:
    (folder / "p0" / "Doe^Jane.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"Doe^Jane" * 9)
    found = _find(folder)
    shown = repr(found) + " ".join(problem.line() for problem in found.problems)
    for secret in ("Doe", "Phantom", "PHANTOM", "1.2.826", str(folder)):
        assert secret not in shown
    assert "Doe" in found.problems[0].line(show_path=True)


def test_two_plans_of_one_patient_are_two_studies(folder: Path) -> None:
    plan, dose = folder / "p0" / "rp2.dcm", folder / "p0" / "rd2.dcm"
    shutil.copy(folder / "p0" / "rp.dcm", plan)
    shutil.copy(folder / "p0" / "rd.dcm", dose)

    def second(dataset: pydicom.Dataset) -> None:
        dataset.SOPInstanceUID += ".2"
        if "ReferencedRTPlanSequence" in dataset:
            dataset.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID += ".2"

    _change(plan, second)
    _change(dose, second)
    found = _find(folder)
    ours = [study for study in found.studies if "p0" in study.ct[0].path.parts]
    assert len(ours) == 2
    assert len({study.patient for study in ours}) == 1
    assert [len(study.doses) for study in ours] == [1, 1]
    assert {study.doses[0].path.name for study in ours} == {"rd.dcm", "rd2.dcm"}


def test_references_that_lead_nowhere_fall_back_to_the_frame_of_reference(folder: Path) -> None:
    def lose(dataset: pydicom.Dataset) -> None:
        dataset.ReferencedStructureSetSequence[0].ReferencedSOPInstanceUID = "1.2.3"

    _change(folder / "p0" / "rp.dcm", lose)
    _change(
        folder / "p0" / "rd.dcm",
        lambda d: setattr(d.ReferencedRTPlanSequence[0], "ReferencedSOPInstanceUID", "1.2.4"),
    )
    study = _of(_find(folder), "p0")
    assert study.problems == ()
    assert len(study.doses) == 1
    assert [note.split(" joined")[0] for note in study.notes] == ["structure set", "dose"]


@pytest.mark.parametrize(
    ("lost", "says"),
    [("rs.dcm", "no structure set"), ("CT", "no CT for this structure set")],
)
def test_what_is_missing_is_said(folder: Path, lost: str, says: str) -> None:
    target = folder / "p0" / lost
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    found = _find(folder)
    said = [problem for study in found.studies for problem in study.problems]
    assert any(says in text for text in said)
    bad = next(study for study in found.studies if study.problems)
    with pytest.raises(InputError, match=f"case {bad.case_id}: .*no "):
        read_case(bad)
    assert read_case(_of(found, "p1")).case.dose_gy is not None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: setattr(d, "PatientID", "SOMEBODY ELSE"), "different patient ids"),
        (lambda d: setattr(d, "FrameOfReferenceUID", "1.2.3.4"), "different Frames of Reference"),
    ],
)
def test_files_that_do_not_belong_together(
    folder: Path, change: Callable[[pydicom.Dataset], object], says: str
) -> None:
    _change(folder / "p0" / "rd.dcm", change)
    (problem,) = _of(_find(folder), "p0").problems
    assert says in problem


def test_a_second_copy_is_left_out_and_an_orphaned_dose_named(folder: Path) -> None:
    shutil.copy(folder / "p0" / "rs.dcm", folder / "p0" / "rs_copy.dcm")
    shutil.copy(folder / "p1" / "rd.dcm", folder / "orphan.dcm")
    (folder / "p1" / "rd.dcm").unlink()

    def orphan(dataset: pydicom.Dataset) -> None:
        dataset.SOPInstanceUID += ".9"
        dataset.FrameOfReferenceUID = "1.9"
        dataset.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID = "1.9.9"

    _change(folder / "orphan.dcm", orphan)
    found = _find(folder)
    assert [problem.reason.split(":")[1][:14] for problem in found.problems] == [" belongs to no", " a second file"]
    assert all(not study.problems for study in found.studies)
    assert any("no dose (RTDOSE)" in note for note in _of(found, "p1").notes)


def test_a_folder_that_is_none() -> None:
    with pytest.raises(InputError, match="no such folder"):
        find_studies(Path("/nowhere/at/all"))


def test_the_salt_is_made_once_and_kept_private(tmp_path: Path) -> None:
    one, two = (Pseudonyms.from_file(tmp_path / "secrets" / "salt") for _ in range(2))
    assert one == two
    assert (tmp_path / "secrets" / "salt").stat().st_mode & 0o077 == 0
    assert one.salt.hex() not in repr(one)
    assert one.patient("x") != Pseudonyms.temporary().patient("x")
    (tmp_path / "short").write_bytes(b"short")
    with pytest.raises(InputError, match="32 random bytes"):
        Pseudonyms.from_file(tmp_path / "short")


def test_a_predicted_dose_that_came_back_is_not_the_plans(folder: Path) -> None:
    clinical = next((folder / "p0").rglob("rd*.dcm"))

    def predicted(dataset: pydicom.Dataset) -> None:
        dataset.SOPInstanceUID += ".1"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.ContentQualification = "RESEARCH"

    shutil.copy(clinical, back := clinical.with_name("back.dcm"))
    _change(back, predicted)
    study = _of(_find(folder), "p0")
    assert [dose.path for dose in study.doses] == [clinical]
    assert any("1 predicted doses left out" in note for note in study.notes)
    assert not study.problems
    assert read_case(study).case.dose_gy is not None


@pytest.mark.parametrize("readers", [2, 3])
def test_more_reading_processes_find_the_same_in_the_same_order(folder: Path, readers: int) -> None:
    for number in range(40):  # more than one batch each, and files of every kind among them
        (folder / f"note_{number:02d}.txt").write_text("a note")
    (folder / "cut.dcm").write_bytes(next(folder.rglob("*.dcm")).read_bytes()[:700])
    one, several = _find(folder), find_studies(folder, PSEUDONYMS, readers)
    assert one.others == {"not DICOM": 40}
    assert [p.path.name for p in one.problems] == ["cut.dcm"]
    assert one == several

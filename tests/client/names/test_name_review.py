"""The review table: what needs a person comes first, names stay at the site, and what the model lacks is said."""

from __future__ import annotations

import json
from pathlib import Path

import pydicom
import pytest
from typer.testing import CliRunner

from client.cli import app
from client.names import review as name_review
from client.names.review import NOT_KNOWN, not_known, not_known_notes, review, summary
from client.names.rows import AMBIGUOUS, MAPPED, UNMAPPED, NameRow
from client.prediction.subject import load_subject
from client.setup import check as preflight
from client.setup.check_patients import Source
from client.site.config import DICOM
from tests.builders.small_study import write_small_study


def row(name: str, status: str, tg263: str = "", how: str = "spelling") -> NameRow:
    return NameRow(number=1, name=name, kind="ORGAN", status=status, tg263=tg263, how=how)


TABLES = [
    [row("Lippen", MAPPED, "Lips"), row("Cord", MAPPED, "SpinalCord"), row("J. Doe boost", UNMAPPED)],
    [row("Lippen", MAPPED, "Lips"), row("Lips", MAPPED, "Lips", "TG-263"), row("PTV", AMBIGUOUS)],
]


def test_equal_rows_count_patients_and_those_for_a_person_come_first() -> None:
    rows = review(TABLES)
    assert [(r.name, r.state, r.patients) for r in rows] == [
        ("PTV", AMBIGUOUS, 1),
        ("J. Doe boost", UNMAPPED, 1),
        ("Lippen", NOT_KNOWN, 2),
        ("Lips", NOT_KNOWN, 1),
        ("Cord", MAPPED, 1),
    ]
    told = summary(rows, show_ids=False)
    assert told["names"] == {AMBIGUOUS: 1, UNMAPPED: 1, NOT_KNOWN: 2, MAPPED: 1}
    assert told[NOT_KNOWN] == {"Lips": 3}
    assert "Doe" not in json.dumps(told) + " ".join(name_review.lines(rows, show_ids=False)) + repr(rows)
    assert "J. Doe boost" in json.dumps(summary(rows, show_ids=True))
    assert any("J. Doe boost" in line for line in name_review.lines(rows, show_ids=True))


def test_what_the_model_does_not_know_is_one_note() -> None:
    assert not_known(TABLES[0]) == ("Lips",)
    (note,) = not_known_notes(TABLES[0])
    assert note.endswith("not used: Lips")
    assert not_known_notes(TABLES[0][1:]) == ()
    assert review([]) == []


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with a parotid renamed to a gland that the model has no input for, and one that nobody knows."""
    folder = tmp_path_factory.mktemp("study")
    write_small_study(folder / "a")
    dataset = pydicom.dcmread(folder / "a" / "rs.dcm")
    for item in dataset.StructureSetROISequence:
        if item.ROIName == "Parotid_L":
            item.ROIName = "Submandibular li"
        if item.ROIName == "SpinalCord":
            item.ROIName = "Doe^John margin"
    dataset.save_as(folder / "a" / "rs.dcm")
    return folder


def test_check_and_predict_say_it(study: Path) -> None:
    assert any("Glnd_Submand_L" in note for note in load_subject(study).notes)
    report = preflight.check(Source(kind=DICOM, root=study), None, None)
    told = json.dumps(report.record(show_ids=False)) + preflight.page(report, show_ids=False).html()
    told += "\n".join(preflight.lines(report, show_ids=False))
    assert report.record(show_ids=False)["structures"][NOT_KNOWN] == {"Glnd_Submand_L": 1}
    assert "not used: Glnd_Submand_L (1)" in told
    assert "Doe" not in told
    assert "Submandibular li" not in told
    for shown in (preflight.page(report, show_ids=True).html(), "\n".join(preflight.lines(report, show_ids=True))):
        assert "Doe^John margin" in shown
        assert "Submandibular li" in shown


def test_a_study_that_cannot_be_read_for_its_names_shows_them(tmp_path: Path) -> None:
    write_small_study(tmp_path / "a")
    (tmp_path / "a" / "rp.dcm").unlink()
    dataset = pydicom.dcmread(tmp_path / "a" / "rs.dcm")
    for item in dataset.StructureSetROISequence:
        if item.ROIName.startswith("PTV"):
            item.ROIName = "PTV"
    dataset.save_as(tmp_path / "a" / "rs.dcm")
    made = CliRunner().invoke(app, ["check", "--data", str(tmp_path), "--show-ids", "--json"], catch_exceptions=False)
    record = json.loads(made.stdout)
    assert not record["ready"]
    (patient,) = record["patients"]
    assert "no target" in patient["why"][0]
    (target,) = [r for r in record["structures"]["table"] if r["name"] == "PTV"]
    assert target["state"] == AMBIGUOUS
    assert "prescriptions_gy" in target["how"]

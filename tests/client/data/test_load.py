"""The one table of readers: every kind of data has its reader, and all who read go by the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from client.data import load
from client.data.case_files import save_case
from client.data.kinds import patient_kind
from client.dicom.worker import Worker
from client.prediction.subject import load_subject
from client.setup.check_patients import Source, look
from client.site.config import DATA_KINDS, DICOM, SiteConfig
from shared_model.core.errors import InputError
from tests.builders.small_study import ellipsoid_case, write_small_study


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_case(tmp_path / "a.npz", ellipsoid_case("a"))
    return tmp_path


def test_every_kind_of_file_has_one_reader() -> None:
    assert {*load.READERS, DICOM} == set(DATA_KINDS)


def test_check_training_and_predict_read_a_file_by_the_same_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    reader = load.READERS["cases"]

    def counted(path: Path, case_id: str, rules: Any) -> Any:
        read.append(case_id)
        return reader(path, case_id, rules)

    monkeypatch.setitem(load.READERS, "cases", counted)
    load.load_split(SiteConfig(site="s", data="cases", root=folder, train=("a",), validation=()), "train")
    (row,) = look(Source(kind="cases", root=folder), None).patients
    subject = load_subject(folder / "a.npz")
    assert read == ["a"] * 3
    assert row.patient == subject.case.case_id == "a"


def test_a_listed_file_holds_the_case_of_its_name_and_the_text_does_not_say_whose_it_holds(folder: Path) -> None:
    (folder / "a.npz").rename(folder / "b.npz")
    assert load.read_file("cases", folder / "b.npz").case.case_id == "a"
    with pytest.raises(InputError, match=r"b\.npz: the file holds a case of another name; was it renamed\?") as refused:
        load.read_file("cases", folder / "b.npz", listed=True)
    assert "'a'" not in str(refused.value)


def test_a_patients_kind_is_that_of_what_lies_around(tmp_path: Path) -> None:
    for folder, kind in (("half64", "openkbp"), ("full128", "openkbp128"), ("other", "cases")):
        (tmp_path / folder).mkdir()
        assert patient_kind(tmp_path / folder / "pt_1.npz") == kind
    assert patient_kind(tmp_path / "other") == DICOM
    (tmp_path / "other" / "PTV_DICT.json").write_text("{}")
    assert patient_kind(tmp_path / "other" / "pt_1.npz") == patient_kind(tmp_path / "other") == "gdp"


def test_after_the_search_a_plan_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dose of a prediction repeats the plan's identifiers, and those are kept from the one time it is read."""
    write_small_study(tmp_path / "study")
    parsed: Counter[tuple[str, str]] = Counter()
    read_many = Worker.read_many

    def counted(self: Worker, task: Callable[[Path], Any], paths: Sequence[Path]) -> list[Any]:
        parsed.update((path.name, task.__name__) for path in paths)
        return read_many(self, task, paths)

    monkeypatch.setattr(Worker, "read_many", counted)
    origin = load_subject(tmp_path / "study").origin
    assert origin is not None
    assert origin.plan is not None
    assert "BeamSequence" not in origin.plan
    (plan,) = {name for name, task in parsed if task == "read_plan"}
    assert {task: times for (name, task), times in parsed.items() if name == plan} == {"read_header": 1, "read_plan": 1}

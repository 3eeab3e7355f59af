"""What the site's plans score: the numbers of `client align` and `client report`, read once, without ids."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from client.adapters.patients import load_patients
from client.adapters.scores import cohort_means, criteria_table, reference_scores
from client.cards import kept_plans
from client.cards.kept_plans import KeptPlans
from client.cards.preview import preview
from client.data import case_files
from client.data.case_files import load_case, save_case
from client.data.dicom_cohort import load_case as dicom_case
from client.setup import enrol
from client.setup.backup import RULES
from client.setup.forget import forget
from client.site.config import SiteConfig
from client.site.home import ClientHome
from shared_model.adapter.shared import adapted_model
from shared_model.scoring.scorecard_read import parse_scorecard
from tests.builders.card_home import card_home
from tests.builders.consortium import Consortium
from tests.builders.phantom_patients import HELD, SPEC, TRAIN
from tests.builders.small_card import CARD
from tests.builders.small_study import write_small_study

CARD_READ = parse_scorecard(CARD)
EASIER = parse_scorecard(CARD.replace("[10, 1], [30, 0]", "[10, 1], [40, 0]").replace("limit: 99", "limit: 91"))


@pytest.fixture
def home(tmp_path: Path) -> ClientHome:
    return card_home(tmp_path)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Folders that case files are read from: ``cases`` of the site, and ``plans`` of what is kept."""
    found: list[str] = []
    read = case_files.load_case
    monkeypatch.setattr(case_files, "load_case", lambda path: (found.append(path.parent.name), read(path))[1])
    return found


def site_of(home: ClientHome) -> SiteConfig:
    return SiteConfig.load(home.site_config)


def test_it_says_what_align_and_report_say(home: ClientHome) -> None:
    site, model = site_of(home), adapted_model(SPEC)
    for split, most in ((site.validation, HELD), ((*site.validation, *site.train), 20)):
        scores = reference_scores(load_patients(site, split, SPEC, model, CARD_READ))
        record = preview(home, CARD_READ, most)
        assert record["score"] == cohort_means(scores)["score"]
        assert [one["score"] for one in record["per_plan"]] == [one.score for one in scores]
        told = [{key: value for key, value in one.items() if key != "failed"} for one in record["criteria"]]
        assert told == criteria_table(CARD_READ, {"reference": scores})
    assert record["plans"] == HELD + TRAIN


def test_the_criterion_that_most_plans_fail_is_named(home: ClientHome) -> None:
    site = site_of(home)
    scores = reference_scores(
        load_patients(site, (*site.validation, *site.train), SPEC, adapted_model(SPEC), CARD_READ)
    )
    cold = [one.values["d95"] < 99 for one in scores]
    hot = [one.values["larynx"] >= 30 for one in scores]
    record = preview(home, CARD_READ)
    assert [one["failed"] for one in record["criteria"]] == [sum(cold), sum(hot), 0]
    assert sum(cold) != sum(hot)
    worst = "d95" if sum(cold) > sum(hot) else "larynx"
    assert record["most_failed"] == {"ids": [worst], "plans": max(sum(cold), sum(hot))}
    assert [("d95" in one["failed"], "larynx" in one["failed"]) for one in record["per_plan"]] == list(
        zip(cold, hot, strict=True)
    )


def test_a_plan_is_read_once_and_a_value_computed_once(home: ClientHome, reads: list[str]) -> None:
    first = preview(home, CARD_READ)
    assert len(reads) == 2 * (TRAIN + HELD)
    reads.clear()
    assert preview(home, CARD_READ) == first
    changed = preview(home, EASIER)
    assert reads == [], "points and limits need no dose"
    assert changed["score"] > first["score"]
    preview(home, parse_scorecard(CARD.replace("metric: Mean", "metric: Max")))
    assert reads == ["plans"] * (TRAIN + HELD)


def test_what_has_changed_is_read_again(home: ClientHome, reads: list[str]) -> None:
    before, site = preview(home, CARD_READ), site_of(home)
    case_id = site.validation[0]
    case = load_case(site.root / f"{case_id}.npz")
    assert case.dose_gy is not None
    object.__setattr__(case, "dose_gy", (case.dose_gy * 0.8).astype(np.float32))
    save_case(site.root / f"{case_id}.npz", case)
    reads.clear()
    assert preview(home, CARD_READ)["per_plan"][0]["score"] < before["per_plan"][0]["score"]
    assert reads == ["cases", "plans"]
    reads.clear()
    preview(home, CARD_READ, again=True)
    assert len(reads) == 2 * (TRAIN + HELD)


def test_what_other_code_computed_is_not_shown(
    home: ClientHome, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    preview(home, CARD_READ)
    reads.clear()
    monkeypatch.setattr(kept_plans, "_scoring_digest", lambda: "newer")
    preview(home, CARD_READ)
    assert len(reads) == 2 * (TRAIN + HELD)


def test_it_goes_on_where_the_time_was_over(home: ClientHome, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(seconds)))  # each look at the clock takes a second
    record = preview(home, CARD_READ, seconds=0.0)
    calls = 1
    while record["waiting"]:
        before, record = record, preview(home, CARD_READ, seconds=0.0)
        calls += 1
        assert record["waiting"] < before["waiting"]
    assert calls > 1
    assert record == preview(home, CARD_READ)


def test_damage_is_mended_and_what_has_no_dose_is_left_out(home: ClientHome) -> None:
    whole, site = preview(home, CARD_READ), site_of(home)
    kept = home.kept_plans / f"{site.train[0]}"
    kept.with_suffix(".npz").write_bytes(b"PK")
    assert preview(home, parse_scorecard(CARD.replace("D95%", "D94%")))["plans"] == TRAIN + HELD
    kept.with_suffix(".json").write_text("{")
    assert preview(home, CARD_READ) == whole
    (site.root / f"{site.train[0]}.npz").write_bytes(b"PK")
    case = load_case(site.root / f"{site.train[1]}.npz")
    object.__setattr__(case, "dose_gy", None)
    save_case(site.root / f"{site.train[1]}.npz", case)
    record = preview(home, CARD_READ)
    assert (record["plans"], record["left_out"]) == (TRAIN + HELD - 2, 2)


def test_a_card_for_nobody_here_scores_nothing(home: ClientHome) -> None:
    only = CARD[: CARD.index("  - {id: d95")] + CARD[CARD.index("  - {id: cord") :]
    record = preview(home, parse_scorecard(only))
    assert (record["score"], record["most_failed"]) == (None, None)
    assert {one["score"] for one in record["per_plan"]} == {None}
    assert record["criteria"][0]["patients"] == 0


def test_nothing_told_or_readable_names_a_patient(home: ClientHome) -> None:
    record = json.dumps(preview(home, CARD_READ))
    assert "case" not in record
    assert home.kept_plans.stat().st_mode & 0o777 == 0o700
    files = list(home.kept_plans.iterdir())
    assert len(files) == 2 * (TRAIN + HELD)
    for path in files:
        assert path.stat().st_mode & 0o777 == 0o600
        assert RULES.left_out(str(path.relative_to(home.folder))), "a backup holds no patient"
    with np.load(home.kept_plans / "case0.npz") as kept:
        assert set(kept.files) == {"header", "body", "masks", "dose_gy"}


def test_a_forgotten_patient_is_kept_nowhere(home: ClientHome) -> None:
    preview(home, CARD_READ)
    patient = KeptPlans(home).case_ids[0]
    forget(home, patient)
    assert not list(home.kept_plans.glob(f"{patient}.*"))
    assert preview(home, CARD_READ)["plans"] == TRAIN + HELD - 1
    shutil.rmtree(home.kept_plans)


def test_a_study_that_training_has_read_anew_is_read_anew(tmp_path: Path, reads: list[str]) -> None:
    for index in range(2):
        write_small_study(tmp_path / "archive" / str(index), index)
    data = enrol.Data(kind="dicom", root=tmp_path / "archive", site_config=None)
    home = enrol.make_home(Consortium().invitation("north"), tmp_path / "north", data)
    before = preview(home, CARD_READ)
    assert before["plans"] == 2
    reads.clear()
    assert preview(home, CARD_READ) == before
    assert reads == []
    for path in (tmp_path / "archive").rglob("*.dcm"):
        os.utime(path, (1e9, 1e9))
    site_before = {path.name for path in (home.folder / "cache" / "cases").iterdir()}
    dicom_case(site_of(home), KeptPlans(home).case_ids[0])
    assert {path.name for path in (home.folder / "cache" / "cases").iterdir()} != site_before
    reads.clear()
    assert preview(home, CARD_READ) == before
    assert len([folder for folder in reads if folder == "plans"]) == 1

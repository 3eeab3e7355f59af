"""`simulate faults`: the same seed gives the same table; faults end as they should; sites refuse what is hostile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared_model.core.errors import InputError
from simulations.faults.run import run_faults
from simulations.faults.scenarios import scenarios
from simulations.settings.faults import faults_settings

SMALL = ["sites=4", "rounds=3", "size=16", "deadline_s=4"]
# Rows without a wait for the deadline.
QUICK = "faults=[crash,nan,garbage,cut,leave,'lie, mean','lie, trimmed','lie, median',kill,'kill site']"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    out = tmp_path_factory.mktemp("faults")
    run_faults(faults_settings([*SMALL, QUICK, f"out={out}"]))
    return (out / "faults.md").read_text(), json.loads((out / "faults.json").read_text())


def test_the_same_seed_gives_the_same_table_and_another_seed_another(table: tuple[str, dict], tmp_path: Path) -> None:
    run_faults(faults_settings([*SMALL, QUICK, f"out={tmp_path}"]))
    assert (tmp_path / "faults.md").read_text() == table[0]
    rows = [
        [(row.what, row.killed, row.cuts) for row in scenarios(seed, ["a", "b", "c", "d"], 9, 1.0)] for seed in (0, 1)
    ]
    assert rows[0] != rows[1]


def test_each_fault_ends_as_it_should(table: tuple[str, dict]) -> None:
    rows = {row["name"]: row for row in table[1]["rows"]}
    assert all(row["rounds"] == 3 for row in rows.values()), "a fault at one site stops no run"
    assert rows["healthy"]["drops"] == {}
    assert rows["crash"]["drops"] == {"error": 1}
    assert rows["nan"]["drops"] == {"not_finite": 1}
    assert rows["garbage"]["drops"] == {"schema": 1}
    assert rows["cut"]["drops"] == {"disconnected": 3}
    assert set(rows["leave"]["drops"]) == {"disconnected"}
    assert rows["cut"]["updates"] == rows["healthy"]["updates"] - 3


def test_a_killed_coordinator_goes_on_to_the_same_vector(table: tuple[str, dict]) -> None:
    row = next(row for row in table[1]["rows"] if row["name"] == "kill")
    assert row["same"]
    assert "resumed after round" in row["ended"]


def test_a_killed_site_is_dropped_once_and_missing_from_then_on(table: tuple[str, dict]) -> None:
    rows = {row["name"]: row for row in table[1]["rows"]}
    (scenario,) = [row for row in scenarios(0, [f"site-{i}" for i in range(1, 5)], 3, 4.0) if row.killed_site]
    row = rows["kill site"]
    assert (row["rounds"], row["ended"], row["drops"]) == (3, "finished", {"disconnected": 1})
    assert row["updates"] == rows["healthy"]["updates"] - (3 - scenario.site_round + 1)


@pytest.mark.parametrize("rule", ["trimmed", "median"])
def test_a_lie_moves_the_mean_and_not_what_is_robust(rule: str, table: tuple[str, dict]) -> None:
    away = {row["name"]: row["away"] for row in table[1]["rows"]}
    assert away[f"lie, {rule}"] < 0.5 * away["lie, mean"]
    assert away["healthy"] < 0.1


def test_a_site_refuses_whatever_a_hostile_coordinator_asks(table: tuple[str, dict]) -> None:
    assert len(table[1]["hostile"]) == 8
    assert all(answer.startswith("refused: ") for answer in table[1]["hostile"].values()), table[1]["hostile"]
    assert table[1]["hostile"]["the bare update of a run under masks"] == "refused: policy"


def test_silent_and_slow_sites_cost_a_round_its_deadline_and_no_more(tmp_path: Path) -> None:
    run_faults(faults_settings([*SMALL, "deadline_s=2", "faults=[silence,slow]", f"out={tmp_path}"]))
    rows = json.loads((tmp_path / "faults.json").read_text())["rows"]
    assert [row["drops"] for row in rows[1:]] == [{"timeout": 1}, {"timeout": 1}]


def test_an_unknown_row_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no row 'flood'"):
        run_faults(faults_settings([*SMALL, "faults=[flood]", f"out={tmp_path}"]))


@pytest.mark.parametrize(
    ("override", "words"), [("sites=2", "sites"), ("faults=crash", "faults"), ("rouns=1", "rouns")]
)
def test_a_bad_override_is_named(override: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        faults_settings([override])

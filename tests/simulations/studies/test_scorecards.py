"""`simulate scorecards`: a toy run, the tables from known scores, and settings that name what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.progress import Progress, TextColumn

from client.site.config import SiteConfig
from shared_model.adapter.manifest import initial_vector, save_adapter
from shared_model.core.errors import InputError
from simulations.reports.scorecards import ScorecardStudy, matrix, own_cards, rows, spread, study_markdown
from simulations.settings.scorecards import scorecards_settings
from simulations.studies import scorecards
from simulations.studies.scorecards import run_scorecards, taught
from tests.builders.phantom_patients import SPEC


def study() -> ScorecardStudy:
    """Two hospitals, cards and seeds: an aligned model wins 2 points under its own card and loses 1 elsewhere.

    A steered dose wins 3 under the card that it was steered to, and loses 2 under the other.
    """

    def dose(x: float, y: float, mae: float) -> dict[str, object]:
        return {"scores": {"x": x, "y": y}, "mae_ref5_gy": mae}

    def patient(site: str, seed: int) -> dict[str, object]:
        x = 60.0 + seed
        models = {"A": dose(x + 2, 69.0, 4.04), "B": dose(x - 1, 72.0, 4.04), "shared": dose(x, 70.0, 4.0)}
        models["reference"] = dose(80.0, 80.0, 0.0)
        return {
            "site": site,
            "models": models,
            "steered": {"x": dose(x + 3, 68.0, 4.02), "y": dose(x - 2, 73.0, 4.02)},
            "best_of": {"x": dose(65.0, 70.0, 4.2), "y": dose(x, 75.0, 4.2)},
            "spread": {"Larynx": [3.0, -2.0], "SpinalCord": [1.0, 2.0]},
            "cpu_s": {"one": 0.5, "steer": 3.0, "best_of": 2.0},
        }

    patients = {str(seed): {f"{site}{n}": patient(site, seed) for site in "AB" for n in (1, 2)} for seed in (0, 1)}
    return ScorecardStudy(
        cards={"A": "x", "B": "y"}, patients=patients, align_cpu_s={"A/0": 30.0, "B/0": 34.0}, best_of=8
    )


def test_rows_are_of_the_hospitals_own_patients_and_card() -> None:
    first = rows(study())[0]
    assert (first.site, first.card, first.seed, first.patients, first.reference) == ("A", "x", "0", 2, 80.0)
    assert first.score == {"shared": 60.0, "aligned": 62.0, "steered": 63.0, "best": 65.0}
    assert first.mae == {"shared": 4.0, "aligned": 4.04, "steered": 4.02, "best": 4.2}


def test_the_table_has_means_over_seeds() -> None:
    lines = own_cards(study()).splitlines()
    assert lines[2].startswith("| A | x | 2 | 80.00 | 60.50 ± 0.71 | 2.00 ± 0.00 | 3.00 ± 0.00 | 4.50 ± 0.71 | 4.000")
    assert lines[-1].startswith("| all | each its own | 4 | 80.00 | 65.25 ± 0.35 | 2.00 ± 0.00 | 3.00 ± 0.00 |")
    assert "1.00 ± 0.00 % | 0.50 ± 0.00 % | 5.00 ± 0.00 %" in lines[-1]


def test_without_alignment_there_is_no_column_for_it() -> None:
    alone = replace(study(), align_cpu_s={})
    assert "aligned" not in study_markdown(alone)
    assert "steered: gain" in own_cards(alone)


def test_the_matrix_has_the_own_card_in_bold() -> None:
    lines = matrix(study(), "aligned").splitlines()
    assert lines[2] == "| x | **2.00 ± 0.00** | -1.00 ± 0.00 |"
    assert lines[3] == "| y | -1.00 ± 0.00 | **2.00 ± 0.00** |"
    assert matrix(study(), "steered").splitlines()[2] == "| x | **3.00 ± 0.00** | -2.00 ± 0.00 |"


def test_an_organs_spread_is_set_against_its_error() -> None:
    lines = spread(study()).splitlines()
    assert lines[2] == "| Larynx | 3.00 ± 0.00 | 2.00 | 1.50 ± 0.00 |"
    assert lines[-1] == "| all | 2.24 ± 0.00 | 2.00 | 1.12 ± 0.00 |"


def test_who_chooses_an_alignment_is_not_scored_or_does_not_train(tmp_path: Path) -> None:
    site = SiteConfig(site="A", data="cases", root=tmp_path, train=("t1", "t2", "t3"), validation=("v1", "v2"))
    spared = taught(site, {"v2", "of another hospital"}, 2)
    assert (spared.train, spared.validation) == (site.train, ("v2",))
    without = taught(site, set(), 2)
    assert (without.train, without.validation) == (("t1",), ("t2", "t3"))
    with pytest.raises(InputError, match="choose=3: leaves A no patient"):
        taught(site, set(), 3)


def test_a_toy_study_aligns_scores_and_reads_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = tmp_path / "adapter.safetensors"
    save_adapter(adapter, SPEC, initial_vector(SPEC))
    settings = scorecards_settings(
        ["seeds=[0]", "cards=[swallowing_first,head_neck]", "data.sites=2", "data.patients=4", "data.edge=16",
         "best_of=3", "choose=1", "steering.steps=1", "align.epochs=1", "align.candidates=2", "align.rank=2",
         f"adapter={adapter}", f"data.root={tmp_path / 'data'}", f"out={tmp_path / 'out'}"]
    )  # fmt: skip
    bars = Progress(TextColumn("{task.fields[note]}"), disable=True)
    table = run_scorecards(settings, bars)
    assert (tmp_path / "out" / "scorecards.md").read_text() in table
    found = json.loads((tmp_path / "out" / "scorecards.json").read_text())
    assert len(found["cards"]) == 2
    ways = next(iter(found["patients"]["0"].values()))
    assert set(ways["models"]) == {"reference", "shared", *found["cards"]}
    assert set(ways["steered"]) == set(ways["best_of"]) == set(found["cards"].values())

    def fail(*_: object) -> None:
        raise AssertionError("aligned or scored again")

    monkeypatch.setattr(scorecards, "align", fail)
    monkeypatch.setattr(scorecards, "load_patients", fail)
    assert run_scorecards(settings, bars) == table


def test_settings(tmp_path: Path) -> None:
    found = scorecards_settings([f"out={tmp_path}", "seeds=[4,5]", "align.lr=0.01"])
    assert found.seeds == (4, 5)
    assert found.align.lr == 0.01
    assert [path.stem for path in found.cards][:2] == ["swallowing_first", "head_neck"]
    for override, message in (
        ("seeds=[]", "seeds"),
        ("align.form=eps", "form"),
        ("align.lrr=1", "lrr"),
        ("best_of=2", "best_of"),
        ("scored=[5,5]", "scored"),
        ("scored=[5]", "scored"),
        ("steering.price=0", "price"),
        ("tradeoffs=[no.safetensors]", "no such file"),
    ):
        with pytest.raises(InputError, match=message):
            scorecards_settings([f"out={tmp_path}", override])

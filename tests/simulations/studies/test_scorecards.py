"""`simulate scorecards`: the tables from known scores, and settings that name what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared_model.core.errors import InputError
from simulations.reports.scorecards import ScorecardStudy, before_and_after, matrix, rows
from simulations.settings.scorecards import scorecards_settings


def study() -> ScorecardStudy:
    """Two hospitals, cards and seeds: an aligned model wins 2 points under its own card and loses 1 elsewhere."""

    def patient(site: str, seed: int) -> dict[str, object]:
        shared = {"x": 60.0 + seed, "y": 70.0}
        own = {"A": {"x": shared["x"] + 2, "y": 69.0}, "B": {"x": shared["x"] - 1, "y": 72.0}}
        models = {name: {"scores": scores, "mae_ref5_gy": 4.04} for name, scores in own.items()}
        models["shared"] = {"scores": shared, "mae_ref5_gy": 4.0}
        models["reference"] = {"scores": {"x": 80.0, "y": 80.0}, "mae_ref5_gy": 0.0}
        best = {card: {"score": 65.0, "mae_ref5_gy": 4.2} for card in ("x", "y")}
        return {"site": site, "models": models, "best_of": best, "cpu_s": {"one": 0.5, "best_of": 2.0}}

    patients = {str(seed): {f"{site}{n}": patient(site, seed) for site in "AB" for n in (1, 2)} for seed in (0, 1)}
    return ScorecardStudy(
        cards={"A": "x", "B": "y"}, patients=patients, align_cpu_s={"A/0": 30.0, "B/0": 34.0}, best_of=8
    )


def test_rows_are_of_the_hospitals_own_patients_and_card() -> None:
    first = rows(study())[0]
    assert (first.site, first.card, first.seed, first.patients) == ("A", "x", "0", 2)
    assert (first.reference, first.before, first.after, first.best) == (80.0, 60.0, 62.0, 65.0)
    assert (first.mae_before, first.mae_after, first.mae_best) == (4.0, 4.04, 4.2)


def test_the_table_has_means_over_seeds() -> None:
    lines = before_and_after(study()).splitlines()
    assert lines[2].startswith("| A | x | 2 | 80.00 | 60.50 ± 0.71 | 62.50 ± 0.71 | 2.00 ± 0.00 | 65.00 ± 0.00 | 4.000")
    assert lines[-1].startswith("| all | each its own | 4 | 80.00 | 65.25 ± 0.35 | 67.25 ± 0.35 | 2.00 ± 0.00 |")
    assert "1.00 ± 0.00 %" in lines[-1]


def test_the_matrix_has_the_own_card_in_bold() -> None:
    lines = matrix(study()).splitlines()
    assert lines[2] == "| A | x | **2.00 ± 0.00** | -1.00 ± 0.00 |"
    assert lines[3] == "| B | y | -1.00 ± 0.00 | **2.00 ± 0.00** |"


def test_settings(tmp_path: Path) -> None:
    found = scorecards_settings([f"out={tmp_path}", "seeds=[4,5]", "align.lr=0.01"])
    assert found.seeds == (4, 5)
    assert found.align.lr == 0.01
    assert [path.stem for path in found.cards][:2] == ["swallowing_first", "head_neck"]
    for override, message in (
        ("seeds=[]", "seeds"),
        ("align.form=eps", "form"),
        ("align.lrr=1", "lrr"),
        ("best_of=0", "best_of"),
    ):
        with pytest.raises(InputError, match=message):
            scorecards_settings([f"out={tmp_path}", override])

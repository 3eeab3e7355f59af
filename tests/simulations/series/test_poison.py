"""`simulate poison`: a hospital that lies through masks and ledgers, and what comes of it."""

import json
import re
from pathlib import Path

import pytest
from rich.progress import Progress, TextColumn

from shared_model.core.errors import InputError
from simulations.series import poison
from simulations.series.poison import PoisonTrial, run_poison, table_markdown, trial_settings
from simulations.settings.series import poison_settings

# Noise next to nothing: what is seen is the lie.
TINY = [
    "data.sites=3", "data.patients=3", "rounds.count=4", "workers=1", "privacy.epsilon=1000", "seeds=[0]",
]  # fmt: skip


def bars() -> Progress:
    return Progress(TextColumn("{task.fields[note]}"), disable=True)


def test_trials_differ_in_the_check_alone(tmp_path: Path) -> None:
    settings = poison_settings([f"out={tmp_path}", "rounds.count=5"])
    open_, checked = (trial_settings(settings, -4, check, 1) for check in ("none", "phantoms"))
    assert (open_.federation.rounds.public_step, open_.federation.rounds.public_worst) == (0.0, 0.0)
    assert (checked.federation.rounds.public_step, checked.federation.rounds.public_worst) == (1.05, 1.15)
    assert checked.federation.privacy.mode == "shared"
    named = poison_settings([f"out={tmp_path}", "rounds.count=5", "public=some/cases.npz"])
    assert trial_settings(named, -4, "patients", 1).federation.rounds.public_cases == str(
        Path("some/cases.npz").resolve()
    )
    assert checked.out == tmp_path / "factor-4" / "phantoms" / "seed1"


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["privacy.mode=none"], "privacy.mode=none: expected shared or site"),
        (["rounds.public_step=2.0"], "rounds.public_"),
        (["liar=3", "data.sites=3", "data.patients=2"], "liar=3: expected 0 to 2"),
    ],
)
def test_what_would_make_a_wrong_table_is_refused(tmp_path: Path, overrides: list[str], what: str) -> None:
    with pytest.raises(InputError, match=re.escape(what)):
        run_poison(poison_settings([*overrides, "factors=[-4]", "rounds.count=2", f"out={tmp_path}"]), bars())


def test_poison_is_taken_back_and_the_study_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = poison_settings(
        [
            *TINY,
            "privacy.clip=0.3",
            "train.base_lr=0.5",
            "train.lr_final_fraction=1.0",
            "factors=[-4]",
            f"out={tmp_path}",
        ]
    )
    table = run_poison(settings, bars())
    open_, checked = ([cell.strip() for cell in line.split("|")] for line in table.splitlines()[2:4])
    assert (open_[1:6], checked[1:6]) == (["-4", "none", "1", "4", "0"], ["-4", "phantoms", "1", "3", "3"])
    assert checked[10] == "early"
    assert float(open_[8]) > 1.5 * float(checked[8])
    left = tmp_path / "factor-4" / "phantoms" / "seed0"
    summary = json.loads((left / "summary.json").read_text())
    assert (summary["rounds"], summary["gradient_steps"], summary["privacy"]["steps"]) == (3, 3, 3)
    assert "STOPPED: rounds 1 to 3 were taken back" in (left / "metrics.md").read_text()
    monkeypatch.setattr(poison, "run_studies", None)
    assert run_poison(settings, bars()) == table


def test_a_sum_that_is_too_long_is_said_to_be_refused(tmp_path: Path) -> None:
    settings = poison_settings([*TINY, "factors=[-12]", f"out={tmp_path}"])
    assert run_poison(settings, bars()).count("the sum is refused by its norm") == 2


def test_a_row_is_the_mean_over_its_seeds() -> None:
    def trial(seed: int, taken: int, score: float | None) -> PoisonTrial:
        return PoisonTrial(
            factor=-2, check="phantoms", seed=seed, rounds=4, taken_back=taken, start_gy=2.8, public_gy=3.0,
            score_gy=score,
            dvh_gy=score, ended="",
        )  # fmt: skip

    row = table_markdown([trial(0, 1, 4.0), trial(1, 2, 5.0)]).splitlines()[2]
    assert "| -2 | phantoms | 2 | 4 | 1.5 | 2.80 ± 0.00 | 3.00 ± 0.00 | 4.50 ± 0.71 |" in row

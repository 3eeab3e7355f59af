"""`simulate transfer`: every trial composes before one trains; finished ones are read; the table compares by seed."""

from pathlib import Path

import pytest
from rich.progress import Progress, TextColumn

from shared_model.core.errors import InputError
from simulations.series import transfer
from simulations.series.transfer import (
    TransferTrial,
    mean_curves,
    pretraining_steps,
    run_transfer,
    table_markdown,
    trial_settings,
)
from simulations.settings.series import transfer_settings

TINY = [
    "model.shape=[16,16,16]", "data.sites=2", "train.batch_size=2", "data.patients=3", "workers=1", "seeds=[0]",
    "steps=[10]", "priors=[none]", "equal_compute=false",
]  # fmt: skip


def bars() -> Progress:
    return Progress(TextColumn("{task.fields[note]}"), disable=True)


def trial(prior: str, seed: int, score: float, steps: int = 1000) -> TransferTrial:
    scores = {"dose_score_gy": score, "dvh_score_gy": 2 * score, "mae_ref5_gy": score, "mae_gdp_gy": score}
    return TransferTrial(prior=prior, steps=steps, seed=seed, scores=scores, curve=((500, 2 * score), (steps, score)))


def test_trials_differ_in_prior_steps_and_seed_alone(tmp_path: Path) -> None:
    settings = transfer_settings(["train.lr=1e-3", f"out={tmp_path}"])
    one = trial_settings(settings, "none", 1000, 0)
    assert (one.federation.rounds.count, one.federation.train.local_steps) == (10, 100)
    assert one.federation.train.lr == 1e-3
    assert one.spec.init_seed == 0
    other = trial_settings(settings, "video-shuffled", 4000, 2)
    assert (other.federation.rounds.count, other.federation.rounds.evaluate_every) == (40, 4)
    assert other.spec.prior == "video-shuffled"
    assert other.out == tmp_path / "video-shuffled" / "4000" / "seed2"
    with pytest.raises(InputError, match="steps=1007"):
        trial_settings(settings, "none", 1007, 0)


@pytest.mark.parametrize("override", ["priors=[magic]", "priors=[wan]", "seeds=[]", "steps=[5]", "rouns=3"])
def test_a_bad_override_is_refused_before_anything_trains(override: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run_transfer(transfer_settings([override, f"out={tmp_path / 'a'}"]), bars())
    assert not (tmp_path / "a").exists()


def test_trains_writes_and_finds_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = run_transfer(transfer_settings([*TINY, f"out={tmp_path}"]), bars())
    assert (tmp_path / "transfer.md").read_text() in table
    assert (tmp_path / "transfer.png").stat().st_size > 0
    assert len((tmp_path / "transfer.csv").read_text().splitlines()) == 1 + 10

    def fail(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(transfer, "run_studies", fail)
    assert run_transfer(transfer_settings([*TINY, f"out={tmp_path}"]), bars()) == table
    with pytest.raises(InputError, match="another"):
        run_transfer(transfer_settings([*TINY, "train.lr=1e-5", f"out={tmp_path}"]), bars())


def test_the_table_compares_by_seed_and_counts_the_pretraining() -> None:
    assert pretraining_steps("none") == 0
    assert pretraining_steps("video-small") == 6000
    trials = [trial("none", 0, 8.0), trial("none", 1, 6.0), trial("video-small", 0, 4.0), trial("video-small", 1, 4.5)]
    table = table_markdown(trials)
    assert "| 1000 | random start | 1000 | 2 | 7.00 ± 1.41" in table
    assert "| 1000 | video prior | 7000 | 2 | 4.25 ± 0.35" in table
    assert "0.62 ± 0.18 |" in table, "the mean of 0.5 and 0.75"
    assert mean_curves(trials)["video prior, 1000 steps"] == [(500.0, 8.5), (1000.0, 4.25)]


def test_steps_of_another_size_than_the_pretrainings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="8 examples a step; expected 4"):
        run_transfer(transfer_settings([*TINY, "data.sites=4", f"out={tmp_path}"]), bars())
    assert list(tmp_path.iterdir()) == []

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from shared_model.channels.volumes import patient_channels
from shared_model.core.errors import InputError
from shared_model.training import run as training
from shared_model.training.recipe import Recipe, ask
from shared_model.training.run import CURVE, Trainer, run, tensors
from shared_model.training.step import Taught, learn, plan_noise, teach
from tests.builders.small_case import TINY, small_case

PATIENTS = [patient_channels(small_case()), patient_channels(small_case("b", ct_hu=None))]
RECIPE = Recipe(seed=3, warmup=2)


def _trainer(recipe: Recipe = RECIPE) -> Trainer:
    return Trainer(recipe, TINY, PATIENTS, "fp32")


def _same(a: Trainer, b: Trainer) -> bool:
    left, right = tensors(a), tensors(b)
    pairs = zip(a.network.parameters(), b.network.parameters(), strict=True)
    return all(torch.equal(left[n], right[n]) for n in left) and all(torch.equal(p, q) for p, q in pairs)


def test_a_killed_run_goes_on_to_the_same_weights_and_curve(tmp_path: Path) -> None:
    def validate(trainer: Trainer) -> dict[str, float]:
        return {"score": float(sum(p.detach().abs().sum() for p in trainer.averaged().parameters()))}

    whole, parts = _trainer(), _trainer()
    run(whole, tmp_path / "a", samples=12, every=4, validate=validate)
    run(parts, tmp_path / "b", samples=6, every=4, validate=validate)
    # What the killed process did after its checkpoint is lost.
    parts.advance()
    again = _trainer()
    run(again, tmp_path / "b", samples=12, every=4, validate=validate)
    assert again.samples == whole.samples == 12
    assert _same(whole, again)
    kept = ("samples", "train_gy", "rate", "score")
    assert [[row[k] for k in kept] for row in again.curve] == [[row[k] for k in kept] for row in whole.curve]
    assert [row["samples"] for row in whole.curve] == [4.0, 8.0, 12.0]
    assert len((tmp_path / "b" / CURVE).read_text().splitlines()) == 4
    exported: list[int] = []
    run(_trainer(), tmp_path / "c", samples=8, every=4, validate=validate, export=lambda t: exported.append(t.samples))
    assert exported == [4, 8]


def test_where_memory_runs_out_the_error_says_what_to_do_and_the_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught = iter([True, True, False])

    def cramped(*arguments: Any) -> Taught:
        if not next(taught):
            raise torch.OutOfMemoryError("out of memory")
        return learn(*arguments)

    monkeypatch.setattr(training, "learn", cramped)
    with pytest.raises(InputError, match=r"device cpu: out of memory while training on one patient; .*device=cpu"):
        run(_trainer(), tmp_path, samples=8, every=2, validate=lambda trainer: {})
    again = _trainer()
    assert again.load(tmp_path)
    assert again.samples == 2

    def too_large(trainer: Trainer) -> dict[str, float]:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.undo()
    with pytest.raises(InputError, match="out of memory while scoring the validation patients"):
        run(_trainer(), tmp_path / "b", samples=8, every=2, validate=too_large)


def test_chance_outside_does_not_reach_a_run() -> None:
    one, other = _trainer(), _trainer()
    one.advance()
    torch.manual_seed(99)
    torch.rand(7)
    other.advance()
    assert _same(one, other)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    _trainer().save(tmp_path)
    assert _trainer(replace(RECIPE, finish=100, decay=50)).load(tmp_path)
    with pytest.raises(InputError, match="lr="):
        _trainer(replace(RECIPE, lr=1e-5)).load(tmp_path)
    assert _trainer(replace(RECIPE, lr=1e-5)).load(tmp_path, changed=True)
    with pytest.raises(InputError, match="seed="):
        _trainer(replace(RECIPE, seed=1)).load(tmp_path, changed=True)
    with pytest.raises(InputError, match="other patients"):
        Trainer(RECIPE, TINY, PATIENTS[:1], "fp32").load(tmp_path)
    assert not _trainer().load(tmp_path / "none")


def test_it_learns() -> None:
    recipe = replace(RECIPE, lr=5e-3, any_share=0.0, whole_share=1.0, plain_share=1.0)
    trainer = _trainer(recipe)
    errors = []
    for _ in range(25):
        trainer.advance()
        errors.append(trainer.errors[0])
        trainer.errors = [0.0, 0.0]
    assert sum(errors[-5:]) < 0.7 * sum(errors[:5])


def test_every_patient_once_in_a_round() -> None:
    trainer = _trainer()
    for first in range(0, 20, 2):
        assert {trainer._patient(first).case_id, trainer._patient(first + 1).case_id} == {"a", "b"}


def test_the_rate_warms_up_falls_slowly_and_ends_where_it_is_told() -> None:
    recipe = Recipe(lr=1.0, warmup=10, rate_half=1000.0)
    assert recipe.rate(0) == pytest.approx(0.1)
    assert recipe.rate(500) == pytest.approx(0.5**0.5)
    ending = replace(recipe, finish=1000, decay=400)
    assert ending.rate(300) == recipe.rate(300)
    assert ending.rate(400) == pytest.approx(recipe.rate(400) / 2)
    assert ending.rate(500) == 0.0
    assert recipe.ema_kept(0) < 0.01
    assert recipe.ema_kept(10_000) == pytest.approx(1 - 7.94 / 10_000, abs=1e-5)


def test_questions_are_of_what_a_patient_has() -> None:
    random = torch.Generator().manual_seed(0)
    asked = [ask(Recipe(any_share=0.5), PATIENTS[1].present, random) for _ in range(200)]
    assert {a.target for a in asked} == set(PATIENTS[1].present)
    assert all(a.target not in a.conditions and "ct" not in a.conditions for a in asked)
    undosed = [ask(Recipe(), ("ct", "body"), random) for _ in range(20)]
    assert {a.target for a in undosed} == {"ct", "body"}


def test_noise_has_unit_variance_and_broad_strokes() -> None:
    noise = plan_noise((200, 1, 8, 8, 8), torch.Generator().manual_seed(0))
    assert float(noise.var()) == pytest.approx(1.0, rel=0.05)
    # Of the mean of 8^3 voxels white noise would leave 1/512.
    assert float(noise.mean((2, 3, 4)).var()) == pytest.approx(0.15 + 0.15 / 8 + 0.15 / 64 + 0.55 / 512, rel=0.3)


def test_a_sample_of_dose_says_its_error_and_of_others_none() -> None:
    trainer, random = _trainer(), torch.Generator().manual_seed(0)
    found = [teach(trainer.network, PATIENTS[0], Recipe(any_share=s), random, "fp32") for s in (0.0, 1.0, 1.0, 1.0)]
    assert found[0].error is not None
    assert any(f.error is None for f in found)
    assert all(math.isfinite(f.loss.item()) for f in found)

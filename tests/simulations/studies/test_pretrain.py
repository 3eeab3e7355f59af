"""`simulate pretrain`: the same recipe gives the same weights, also when it was stopped; the card says what it was."""

import json
from pathlib import Path

import pytest

from shared_model.backbone.prior import prior_card
from shared_model.core.errors import InputError
from simulations.settings.pretrain import PretrainSettings, pretrain_settings
from simulations.studies.pretrain import pretrain, training_examples

TINY = ["examples=3", "steps=4", "batch_size=2", "log_every=2"]


def settings(out: Path, *more: str) -> PretrainSettings:
    return pretrain_settings([*TINY, *more, f"out={out}"])


class StopError(Exception):
    pass


def stop_at(step: int):  # type: ignore[no-untyped-def]
    def progress(stage: str, done: int, total: int, loss: float) -> None:
        if (stage, done) == ("steps", step):
            raise StopError

    return progress


def test_stopped_and_started_again_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = pretrain(settings(tmp_path / "whole"), lambda *_: None)
    with pytest.raises(StopError):
        pretrain(settings(tmp_path / "cut"), stop_at(2))
    with pytest.raises(InputError, match="another recipe"):
        pretrain(settings(tmp_path / "cut", "lr=1e-4"), lambda *_: None)
    assert pretrain(settings(tmp_path / "cut"), lambda *_: None) == whole
    lines = (tmp_path / "cut" / "curve.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "2", "4"]
    card = json.loads((tmp_path / "cut" / "card.json").read_text())
    assert card["sha256"] == whole
    assert "source=video" in card["command"]
    assert not (tmp_path / "cut" / "checkpoint.pt").exists()


def test_workers_make_the_same_examples(tmp_path: Path) -> None:
    one, two = (training_examples(settings(tmp_path, f"workers={n}"), lambda *_: None) for n in (1, 2))
    assert [e.case_id for e in one] == [e.case_id for e in two]
    assert all((a.latents[m] == b.latents[m]).all() for a, b in zip(one, two, strict=True) for m in a.latents)


def test_the_bundled_priors_differ_in_their_clips_alone() -> None:
    video, control = prior_card("video-small"), prior_card("video-shuffled")
    assert video["sha256"] != control["sha256"]
    differing = {key for key in video["recipe"] if video["recipe"][key] != control["recipe"][key]}
    assert differing == {"source"}

"""`simulate tradeoff` on phantoms: it goes on where it stopped, and what it writes is read back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.progress import Progress

import simulations.studies.tradeoff as study
from shared_model.adapter.manifest import initial_vector, save_adapter, vector_hash
from shared_model.core.errors import InputError
from shared_model.network.spec import ModelSpec
from shared_model.tradeoff.learn import lesson
from shared_model.tradeoff.saved import Tradeoff
from simulations.studies.tradeoff import CURVE, FILE, TradeoffSettings, tradeoff_settings, train_tradeoff

SPEC = ModelSpec(network="pyramid", prior="none", adapter="bias")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tradeoff")
    save_adapter(made / "a.safetensors", SPEC, initial_vector(SPEC))
    return made


def settings(folder: Path, out: str, *more: str) -> TradeoffSettings:
    data = ["data=phantom", "data.sites=1", "data.patients=4", f"data.root={folder / 'phantoms'}"]
    asked = ["samples=4", "every=2", "choose=1", f"cache={folder / 'cache'}", f"adapter={folder / 'a.safetensors'}"]
    return tradeoff_settings([*data, *asked, f"out={folder / out}", *more])


def run(made: TradeoffSettings) -> str:
    with Progress(disable=True) as bars:
        return train_tradeoff(made, bars)


def test_a_stopped_training_goes_on_and_ends_with_the_same_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = run(settings(folder, "whole"))
    assert "followed" in told
    calls = 0

    def stopping(*args: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return lesson(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(study, "lesson", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(settings(folder, "parts"))
    monkeypatch.undo()
    run(settings(folder, "parts"))
    whole, parts = (Tradeoff.load(folder / out / FILE) for out in ("whole", "parts"))
    state = parts.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.network.state_dict().items())
    assert torch.equal(whole.prior.covariance, parts.prior.covariance)
    assert whole.spread == parts.spread > 0
    assert whole.shared_sha256 == vector_hash(initial_vector(SPEC))
    rows = (folder / "parts" / CURVE).read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["samples", "2", "4"]
    with pytest.raises(InputError, match="of another training"):
        run(settings(folder, "parts", "samples=6"))


def test_settings_are_checked_by_name(folder: Path) -> None:
    for wrong, reason in (("samples=0", "samples"), ("lr=0", "lr"), ("seed=-1", "seed")):
        with pytest.raises(InputError, match=reason):
            settings(folder, "out", wrong)
    with pytest.raises(InputError, match="no such file"):
        run(settings(folder, "out", f"adapter={folder / 'none.safetensors'}"))

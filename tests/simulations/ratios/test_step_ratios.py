"""Ratios of gradients, samples and steps at toy size: both sides compute the same, or the command says so."""

from __future__ import annotations

import pytest
import torch

from simulations.ratios import opacus_peer, remembered, step_precision


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_our_gradients_and_opacus_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    found = opacus_peer.measure(3, 8)
    assert found["numbers"] == sum(p.numel() for p in opacus_peer.small_network().parameters())
    assert 0 <= found["difference"] < 1e-5
    assert found["ratio"] > 0
    monkeypatch.setattr(opacus_peer, "_loss", lambda out: out.square().mean(1).mean())
    with pytest.raises(SystemExit, match="differ by"):
        opacus_peer.measure(3, 8)


def test_remembered_conditions_give_the_same_dose(monkeypatch: pytest.MonkeyPatch) -> None:
    found = remembered.measure(16, 2)
    assert found["largest"] > 0.01
    assert found["difference"] < 1e-3
    assert found["ratio"] > 0
    monkeypatch.setattr(remembered, "SHIFT", 1.0)
    with pytest.raises(SystemExit, match="doses differ"):
        remembered.measure(16, 2)


def test_a_step_in_bf16_stands_beside_float32() -> None:
    found = step_precision.measure(16)
    assert found["ratio"] == pytest.approx(found["bf16_cpu_s"] / found["fp32_cpu_s"], rel=0.01)

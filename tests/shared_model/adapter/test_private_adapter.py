"""The private adapter changes a prediction, comes back from its file, and has no way into a message."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from shared_model.adapter.manifest import initial_vector, load_adapter, pack, unpack
from shared_model.adapter.private import OLD, PrivateAdapter, PrivatePolicy, PrivateShape, aligned_policy
from shared_model.adapter.shared import PRIVATE, adapted_model, holds_private
from shared_model.base.model import DoseModel
from shared_model.core.errors import InputError
from shared_model.network.spec import ModelSpec
from shared_model.network.switches import Switches

SHAPE = PrivateShape(rank=4, alpha=8)
SPECS = [ModelSpec(prior="none", shape=(16, 16, 16), precision="fp32", adapter=a, rank=2) for a in ("full", "lora")]


def vector_of(spec: ModelSpec) -> np.ndarray:
    random = np.random.RandomState(0)
    start = initial_vector(spec)
    return (start + 0.02 * random.standard_normal(start.size)).astype(np.float32)


def output(model: DoseModel) -> torch.Tensor:
    torch.manual_seed(0)
    conditions = {"ct": torch.randn(1, 32, 8, 4, 4), "ptv": torch.randn(1, 32, 8, 4, 4)}
    with torch.no_grad():
        return model.network(conditions, "dose", torch.randn(1, 32, 8, 4, 4), torch.tensor([0.7]))


def disturbed(policy: PrivatePolicy) -> PrivatePolicy:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters().values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return policy


@pytest.mark.parametrize("spec", SPECS, ids=["full", "lora"])
def test_the_three_policies(spec: ModelSpec) -> None:
    vector = vector_of(spec)
    plain = adapted_model(
        ModelSpec.from_json(spec.to_json().replace("}", ',"switches":{"attention":"condition-causal"}}'))
    )
    unpack(plain, vector)
    shared = output(plain.eval())
    policy = PrivatePolicy(spec, vector, SHAPE)
    for name in (PRIVATE, OLD, None):  # untrained private weights change nothing
        torch.testing.assert_close(output(policy.use(name)), shared)
    disturbed(policy)
    assert (output(policy.use(PRIVATE)) - shared).abs().max() > 1e-3
    torch.testing.assert_close(output(policy.use(OLD)), shared)
    torch.testing.assert_close(output(policy.use(None)), shared)
    policy.follow(0.0)
    torch.testing.assert_close(output(policy.use(OLD)), output(policy.use(PRIVATE)))


def test_only_private_weights_train() -> None:
    policy = PrivatePolicy(SPECS[1], vector_of(SPECS[1]), SHAPE)
    policy.use(PRIVATE)
    wanting = {name for name, p in policy.model.named_parameters() if p.requires_grad}
    assert wanting
    assert all(f".{PRIVATE}." in name for name in wanting)
    assert any("time_proj" in name for name in wanting)
    policy.use(OLD)
    assert not any(p.requires_grad for p in policy.model.parameters())


def test_the_old_policy_follows_as_a_moving_average() -> None:
    policy = disturbed(PrivatePolicy(SPECS[0], vector_of(SPECS[0]), SHAPE))
    before = {n: p.clone() for n, p in policy.parameters(OLD).items()}
    policy.follow(0.75)
    for name, old in policy.parameters(OLD).items():
        torch.testing.assert_close(old, 0.75 * before[name] + 0.25 * policy.parameters()[name])


def test_file_round_trip(tmp_path: Path) -> None:
    spec, vector = SPECS[0], vector_of(SPECS[0])
    policy = disturbed(PrivatePolicy(spec, vector, SHAPE))
    policy.adapter().save(tmp_path / "private.safetensors")
    assert (tmp_path / "private.safetensors").stat().st_mode & 0o077 == 0
    again = aligned_policy(spec, vector, PrivateAdapter.load(tmp_path / "private.safetensors"))
    torch.testing.assert_close(output(again.use(PRIVATE)), output(policy.use(PRIVATE)))
    with pytest.raises(InputError, match="trained on the shared adapter"):
        aligned_policy(spec, vector + 1.0, PrivateAdapter.load(tmp_path / "private.safetensors"))


def test_it_cannot_be_packed_pickled_or_copied() -> None:
    policy = PrivatePolicy(SPECS[0], vector_of(SPECS[0]), SHAPE)
    assert holds_private(policy.model)
    with pytest.raises(ValueError, match="never packed"):
        pack(policy.model)
    private = policy.adapter()
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="stays at its site"):
            attempt(private)
    with pytest.raises(TypeError):
        json.dumps(private)
    with pytest.raises((TypeError, ValueError)):
        np.asarray(private, dtype=np.float32)


def test_no_reader_of_shared_adapters_takes_it(tmp_path: Path) -> None:
    path = tmp_path / "private.safetensors"
    PrivatePolicy(SPECS[0], vector_of(SPECS[0]), SHAPE).adapter().save(path)
    with pytest.raises(InputError, match="not a fedkt3d-adapter/1 file"):
        load_adapter(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read as a private adapter"):
        PrivateAdapter.load(path)


def test_a_shape_of_another_attention_is_kept() -> None:
    policy = PrivatePolicy(SPECS[0], vector_of(SPECS[0]), PrivateShape(rank=2, alpha=2, attention="full"))
    assert policy.spec.switches == Switches()

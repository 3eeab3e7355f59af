"""FedPer against a slow version: each site's whole vector is kept by hand, and only the body is averaged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from client.site.config import SiteConfig
from client.training.train import evaluate_round, train_round
from privacy.wire.tasks import EvaluateTask
from shared_model.adapter.heads import heads
from shared_model.adapter.manifest import initial_vector, layout
from shared_model.core.errors import InputError
from shared_model.network.spec import ModelSpec
from simulations.phantom.hospitals import STYLES, write_hospital
from tests.builders.train_task import train_task

SPEC = ModelSpec(prior="none", shape=(16, 16, 16))
HEAD = "table_out"


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> list[SiteConfig]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("hospitals")
    return [
        replace(
            write_hospital(folder / name, STYLES[style], 4, seed, shape=(16, 16, 16)), site=name, cache=folder / "cache"
        )
        for seed, (name, style) in enumerate((("a", "balanced_7f"), ("b", "cord_9f")))
    ]


def test_heads_are_found_by_the_names_of_their_tensors() -> None:
    mask, offset = heads(SPEC, HEAD), 0
    for name, shape in layout(SPEC):
        size = int(np.prod(shape))
        assert (mask[offset : offset + size] == (name == "table_out.weight")).all()
        offset += size
    with pytest.raises(InputError, match="no tensor of such a name"):
        heads(SPEC, "table_out,nose")
    with pytest.raises(InputError, match="all of the adapter would stay"):
        heads(ModelSpec(network="pyramid", prior="none", adapter="head"), "head.")


def test_two_rounds_are_those_of_sites_that_keep_their_heads_by_hand(sites: list[SiteConfig]) -> None:
    mask = heads(SPEC, HEAD)
    shared = initial_vector(SPEC)
    body, own = shared.copy(), [shared.copy(), shared.copy()]
    for number in (1, 2):
        asked = train_task(round=number, local_steps=1, personal=HEAD)
        updates = [train_round(site, SPEC, shared, asked)[0] for site in sites]
        assert not any(update[mask].any() for update in updates), "a head has left its site"
        shared = (shared + np.mean(updates, axis=0)).astype(np.float32)
        trained = []
        for i, site in enumerate(sites):
            whole = np.where(mask, own[i], body).astype(np.float32)
            update = train_round(site, SPEC, whole, train_task(round=number, local_steps=1))[0]
            own[i] = whole + update
            trained.append(update)
        body = (body + np.mean(trained, axis=0)).astype(np.float32)
        assert shared[~mask].tobytes() == body[~mask].tobytes()
    assert (own[0][mask] != own[1][mask]).any(), "two sites with one head show nothing"
    task = EvaluateTask(round=2, sampler_steps=1, personal=HEAD)
    for i, site in enumerate(sites):
        whole = np.where(mask, own[i], body).astype(np.float32)
        assert evaluate_round(site, SPEC, shared, task) == evaluate_round(site, SPEC, whole, replace(task, personal=""))


def test_a_site_that_never_trained_scores_the_shared_head(sites: list[SiteConfig]) -> None:
    new = replace(sites[0], site="new")
    start, task = initial_vector(SPEC), EvaluateTask(round=1, sampler_steps=1, personal=HEAD)
    assert evaluate_round(new, SPEC, start, task) == evaluate_round(new, SPEC, start, replace(task, personal=""))

"""A tree of aggregators gives what the flat federation gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context
from flwr.serverapp import Grid

from client.app import client_app
from server.rounds.loop import run_federation
from server.rounds.result import FederationResult
from shared_model.core.errors import InputError
from simulations.engine.faults import Fault, add_faults
from simulations.engine.process_grid import ProcessGrid
from simulations.engine.quadratic import MANIFEST_HASH, SPEC_JSON, QuadraticTraining, run_quadratic, write_sites
from simulations.engine.run import run_local
from simulations.engine.tree import Tree, sum_of_sums
from tests.builders.run_config import aggregate_config, plain_run, rounds_config, train_config
from tests.builders.secagg_rounds import Federation, name

PATIENTS = {f"site-{i}": 1 + i % 4 for i in range(9)}
CONFIG = plain_run(
    rounds=rounds_config(count=3, min_sites=2, deadline_s=60.0, evaluate_every=3),
    train=train_config(local_steps=2, lr=0.3),
)


def test_three_regions_of_three_sites_are_one_federation_of_nine(tmp_path: Path) -> None:
    nodes = write_sites(tmp_path, PATIENTS)
    flat = run_quadratic(tmp_path / "flat", CONFIG, nodes)
    tree = Tree.of(client_app(QuadraticTraining(64)), nodes, 3, CONFIG)

    def server(grid: Grid, _: Context) -> FederationResult:
        return run_federation(grid, CONFIG, SPEC_JSON, MANIFEST_HASH, np.zeros(64, np.float32), tmp_path / "tree")

    for kind in ({}, {"kind": ProcessGrid, "workers": 2}):
        found = run_local(tree.region_app(), server, tree.nodes(), {}, **kind)
        assert found is not None
        assert found.sites == {"region-0": 8, "region-1": 7, "region-2": 6}
        np.testing.assert_allclose(found.vector, flat.vector, rtol=1e-6, atol=1e-7)
        scores = [result.history[-1].evaluation for result in (found, flat)]
        assert scores[0].metrics["loss"] == pytest.approx(scores[1].metrics["loss"], rel=1e-6)


def test_a_silent_site_costs_its_region_one_update_and_not_the_round(tmp_path: Path) -> None:
    nodes = write_sites(tmp_path, PATIENTS)
    config = plain_run(rounds=rounds_config(count=1, min_sites=3, deadline_s=10.0), train=train_config(lr=0.3))
    silent = add_faults(client_app(QuadraticTraining(64)), [Fault(what="silence", site="site-4")])
    tree = Tree.of(silent, nodes, 3, config)

    def server(grid: Grid, _: Context) -> FederationResult:
        return run_federation(grid, config, SPEC_JSON, MANIFEST_HASH, np.zeros(64, np.float32), tmp_path / "tree")

    found = run_local(tree.region_app(), server, tree.nodes(), {}, workers=3)
    assert found is not None
    # site-4 has one patient, of the seven of region 1
    assert found.history[0].sites == {"region-0": 8, "region-1": 6, "region-2": 6}
    assert found.history[0].drops == ()


@pytest.mark.parametrize("regions", [1, 3, 7])
def test_under_masks_the_sum_of_regional_sums_unmasks_to_the_same_bits(regions: int) -> None:
    """The coordinator's own code takes the masks off the sum of the regions' sums."""
    federation = Federation(size=7)
    federation.set_up()
    vectors = federation.inputs(3)
    step = federation.server.open_step(1, b"m" * 32)
    masked, told = {}, {}
    for site in federation.server.dealers:
        i = federation.cohort.index(site)
        federation.sites[i].open_step(federation.server.inbox(site, step), b"m" * 32)
        told[site], masked[site], _ = federation.sites[i].mask(vectors[i])
        step.add_masked(site, told[site], masked[site])
    whole = sum_of_sums(masked, regions)
    assert step._total is not None
    assert whole.tobytes() == step._total.tobytes()
    step._total = whole
    found = federation.reveal(step, federation.confirm(step))
    expected = np.sum([vectors[i] for i in range(7)], axis=0, dtype=whole.dtype)
    assert found.tobytes() == expected.tobytes()
    assert name(0) in masked


def test_what_a_tree_cannot_do_is_refused() -> None:
    app = client_app(QuadraticTraining(4))
    with pytest.raises(InputError, match="expected 1 to 2"):
        Tree.of(app, [{}, {}], 3, CONFIG)
    equal = plain_run(aggregate=aggregate_config(weighting="equal"))
    with pytest.raises(InputError, match="weighting=patients"):
        Tree.of(app, [{}, {}], 1, equal)
    with pytest.raises(InputError, match="buffer=0"):
        Tree.of(app, [{}, {}], 1, plain_run(rounds=rounds_config(buffer=2)))

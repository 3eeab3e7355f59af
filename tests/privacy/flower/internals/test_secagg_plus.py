"""Flower's SecAgg+, which ours is measured against."""

from privacy.flower.internals.secagg_plus import flower_costs


def test_one_round_runs_from_set_up_to_unmasking() -> None:
    costs = flower_costs(parameters=64, sites=4, threshold=3, seed=0)
    assert set(costs) == {"client_s", "quantise_s", "unmask_s", "up_bytes"}
    assert costs["client_s"] > 0
    assert costs["up_bytes"] > 64 * 4

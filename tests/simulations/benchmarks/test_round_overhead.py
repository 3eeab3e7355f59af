"""The round benchmark at toy size: a tree counts the same updates, and every figure is there."""

from __future__ import annotations

from simulations.benchmarks.round_overhead import measure, measure_scaling
from simulations.engine.run import ProcessGrid


def test_a_tree_of_regions_takes_the_same_rounds() -> None:
    flat, tree = (measure(6, 2, 0.01, 1, regions) for regions in (0, 2))
    assert (flat["sites"], tree["sites"]) == (6, 6)
    assert (flat["regions"], tree["regions"]) == (0, 2)
    assert measure(6, 1, 0.01, 2, 2, ProcessGrid)["rounds"] == 1


def test_scaling_is_a_ratio_of_cpu_a_site() -> None:
    found = measure_scaling(3, 6, 1, 0.01)
    assert (found["few"], found["many"]) == (3, 6)
    assert found["ratio"] > 0

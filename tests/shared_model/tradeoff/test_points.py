"""DVH points: their values, where wanted changes are painted, and what overlaps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared_model.tradeoff.points import COLD, HOT, LEAST_VOXELS, MAPS, MEAN, POINTS, VOLUMES, DvhPoint, PatientPoints

SHAPE = (4, 4, 8)


def of(**voxels: list[int]) -> PatientPoints:
    return PatientPoints({name: torch.tensor(index) for name, index in voxels.items()}, SHAPE)


@given(st.lists(st.floats(0.0, 80.0, width=32), min_size=8, max_size=200))
def test_the_ends_are_means_of_a_twentieth(doses: list[float]) -> None:
    tensor = torch.tensor([doses])
    ordered = sorted(doses)
    count = max(1, round(0.05 * len(doses)))
    for kind, few in ((COLD, ordered[:count]), (HOT, ordered[-count:]), (MEAN, ordered)):
        assert float(DvhPoint("high", kind).of(tensor)) == pytest.approx(sum(few) / len(few), rel=1e-4, abs=1e-4)


def test_a_patient_has_the_points_of_structures_that_are_large_enough() -> None:
    points = of(high=list(range(20)), Larynx=list(range(40, 40 + LEAST_VOXELS - 1)), SpinalCord=list(range(60, 70)))
    assert points.points == (
        DvhPoint("high", COLD), DvhPoint("high", HOT), DvhPoint("SpinalCord", MEAN), DvhPoint("SpinalCord", HOT),
    )  # fmt: skip
    assert [POINTS[place] for place in points.places] == list(points.points)
    dose = torch.arange(128.0).reshape(1, *SHAPE)
    assert points.values(dose)[0].tolist() == [0.0, 19.0, pytest.approx(64.5), 69.0]


def test_a_wanted_change_is_painted_in_its_structure_and_where_it_is_given() -> None:
    points = of(high=list(range(10)), SpinalCord=list(range(60, 70)))
    change = torch.tensor([[0.5, 0.2, -0.3, 0.1]])
    maps = points.painted(change, torch.tensor([[1.0, 0.0, 1.0, 0.0]])).flatten(2)[0]
    assert maps.shape == (MAPS, 128)
    at = {name: n for n, name in enumerate(VOLUMES)}
    assert maps[at["organ mean"], 60:70].tolist() == pytest.approx([-0.3] * 10)
    assert maps[at["target cold"], :10].tolist() == pytest.approx([0.5] * 10)
    assert float(maps[at["organ hot"]].abs().sum() + maps[at["target hot"]].abs().sum()) == 0.0
    where = {name: float(maps[len(VOLUMES) + n].sum()) for name, n in at.items()}  # where each is given
    assert where == {"organ mean": 10, "target cold": 10, "organ hot": 0, "target hot": 0, "surroundings mean": 0}
    assert float(maps[at["organ mean"], :60].abs().sum()) == 0.0


def test_where_structures_overlap_changes_are_averaged_over_those_given() -> None:
    points = of(Parotid_L=list(range(10)), Parotid_R=list(range(5, 15)))
    change = torch.tensor([[0.2, 0.0, 0.4, 0.0]]).expand(2, -1)
    both, one = points.painted(change, torch.tensor([[1.0, 1, 1, 1], [0.0, 0, 1, 1]])).flatten(2)
    means = [float(change[0, n]) for n, p in enumerate(points.points) if p.kind == MEAN]
    assert both[0, 7] == pytest.approx(sum(means) / 2)
    left = next(float(change[0, n]) for n, p in enumerate(points.points) if p == DvhPoint("Parotid_L", MEAN))
    assert both[0, 2] == pytest.approx(left)
    assert one[0, 7] == pytest.approx(means[1])
    assert both[len(VOLUMES), 7] == 1.0


def test_an_organs_change_is_not_mixed_with_that_of_its_surroundings() -> None:
    points = of(SpinalCord=list(range(60, 70)), surroundings=list(range(40, 128)))
    maps = points.painted(torch.tensor([[-0.3, 0.0, 0.1]]), torch.ones(1, 3)).flatten(2)[0]
    assert float(maps[VOLUMES.index("organ mean"), 65]) == pytest.approx(-0.3)
    assert float(maps[VOLUMES.index("surroundings mean"), 65]) == pytest.approx(0.1)


def test_gradients_reach_the_wanted_changes() -> None:
    points = of(high=list(range(10)), SpinalCord=list(range(60, 70)))
    change = torch.zeros(1, 4, requires_grad=True)
    points.painted(change, torch.ones(1, 4)).sum().backward()
    assert change.grad is not None
    assert change.grad.tolist() == [[10.0] * 4]

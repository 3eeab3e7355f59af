"""Partial-volume dosimetry against a slow oracle, an independent library, analytic cases and finite differences."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared_model.scoring import dosimetry
from shared_model.scoring import partial_volume as dvh

GOLDEN = Path(__file__).parents[2] / "golden" / "independent_dvh.json"
doses = st.lists(st.floats(0, 80, width=32), min_size=1, max_size=40)


@given(doses, st.floats(0, 100))
def test_equal_volumes_are_numpys_percentile(values: list[float], percent: float) -> None:
    dose = torch.tensor([values, values[::-1]], dtype=torch.float64)
    found = dvh.dose_at_percent(dose, torch.full((len(values),), 0.3, dtype=torch.float64), percent)
    torch.testing.assert_close(found, dosimetry.dose_at_volume(dose, percent), atol=1e-6, rtol=0)


@given(st.lists(st.tuples(st.floats(0, 80, width=32), st.integers(1, 8)), min_size=1, max_size=12), st.floats(0, 80))
def test_a_voxel_of_part_n_counts_as_n_parts(voxels: list[tuple[float, int]], level: float) -> None:
    """The oracle splits each voxel into its eighths: volume and mean are exact.

    Doses stand at the middles of their voxels, and the scale begins and ends half a voxel inside: dose at volume lies
    no farther from the oracle's place than half a voxel for the ends and one between two middles.
    """
    dose = torch.tensor([[d for d, _ in voxels]], dtype=torch.float64)
    eighths = torch.tensor([float(n) for _, n in voxels], dtype=torch.float64)
    split = np.repeat([d for d, _ in voxels], [n for _, n in voxels])
    assert dvh.volume_at_dose(dose, eighths, level).item() == (split >= level).sum()
    assert dvh.mean_dose(dose, eighths).item() == pytest.approx(split.mean(), abs=1e-9)
    ordered, reach = np.sort(split), 1.5 * float(eighths.max())
    for percent in (98.0, 50.0, 2.0):
        place = len(ordered) * (1 - percent / 100)
        low = ordered[max(math.floor(place - reach), 0)]
        high = ordered[min(math.ceil(place + reach), len(ordered)) - 1]
        assert low - 1e-9 <= dvh.dose_at_percent(dose, eighths, percent).item() <= high + 1e-9


@given(doses, st.floats(0.05, 3.0))
def test_dose_at_cc_falls_with_the_volume_and_starts_at_the_maximum(values: list[float], cc: float) -> None:
    dose, volume = torch.tensor([values], dtype=torch.float64), torch.full((len(values),), 0.1, dtype=torch.float64)
    assert dvh.dose_at_cc(dose, volume, 1e-9).item() == pytest.approx(max(values), abs=1e-5)
    assert dvh.dose_at_cc(dose, volume, 1e6).item() == pytest.approx(min(values), abs=1e-9)
    assert dvh.dose_at_cc(dose, volume, 2 * cc).item() <= dvh.dose_at_cc(dose, volume, cc).item() + 1e-9


def independent_volume(seed: int) -> NDArray[np.float64]:
    random = np.random.RandomState(seed)
    return np.clip(random.normal(20.0 * seed, 4.0 + 3.0 * seed, 4000 * seed), 0.1, 79.0)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_independent_library_agrees(seed: int) -> None:
    """dicompyler-core 0.5.6 (tests/golden/make_independent_dvh.py) bins doses by 0.01 Gy, with whole bins below."""
    golden = json.loads(GOLDEN.read_text())
    expected, voxel_cc = golden["seeds"][str(seed)], golden["voxel_cc"]
    dose = torch.from_numpy(independent_volume(seed))[None]
    cc = torch.full((dose.shape[1],), voxel_cc, dtype=torch.float64)
    ordered = np.sort(independent_volume(seed))
    for name in ("D99", "D95", "D50", "D2"):
        percent = float(name[1:])
        place = round((len(ordered) - 1) * (1 - percent / 100))
        step = ordered[min(place + 1, len(ordered) - 1)] - ordered[place - 2]  # it reads the cold end of a plateau
        assert dvh.dose_at_percent(dose, cc, percent).item() == pytest.approx(expected[name], abs=step + 0.011), name
    for name, level in (("V20Gy", 20.0), ("V45Gy", 45.0), ("V60Gy", 60.0)):
        tolerance = voxel_cc * (np.abs(independent_volume(seed) - level) < 0.01).sum() + 1e-6
        assert dvh.volume_at_dose(dose, cc, level).item() == pytest.approx(expected[name], abs=tolerance), name
    assert dvh.mean_dose(dose, cc).item() == pytest.approx(expected["mean"], abs=0.01)
    hottest = ordered[-6:]
    assert dvh.dose_at_cc(dose, cc, 0.1).item() == pytest.approx(
        expected["D0.1cc"], abs=hottest[-1] - hottest[0] + 0.02
    )


def sphere(radius_mm: float, step_mm: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(dose (1, n) Gy, volume (n,) cm3) of a sphere, its edge in part, in 40 Gy + 0.5 Gy/mm along x."""
    half = np.arange(-radius_mm - step_mm, radius_mm + 1.5 * step_mm, step_mm)
    fine = (np.arange(4) - 1.5) / 4 * step_mm
    z, y, x = np.meshgrid(half, half, half, indexing="ij")
    share = np.zeros(x.shape)
    for dz in fine:
        for dy in fine:
            for dx in fine:
                share += ((z + dz) ** 2 + (y + dy) ** 2 + (x + dx) ** 2 <= radius_mm**2) / 64
    inside = share > 0
    return torch.from_numpy(40 + 0.5 * x[inside])[None], torch.from_numpy(share[inside] * step_mm**3 / 1000)


def cap_cc(height_mm: float, radius_mm: float) -> float:
    return float(np.pi * height_mm**2 * (3 * radius_mm - height_mm) / 3000)


def hottest_gy(cc: float, radius_mm: float) -> float:
    """Least dose in the cap of ``cc`` at the hot end, by bisection."""
    low, high = 0.0, 2 * radius_mm
    for _ in range(60):
        low, high = ((low + high) / 2, high) if cap_cc((low + high) / 2, radius_mm) < cc else (low, (low + high) / 2)
    return 40 + 0.5 * (radius_mm - low)


@pytest.mark.parametrize("step_mm", [2.0, 3.0])
def test_sphere_in_a_linear_gradient(step_mm: float) -> None:
    radius = 20.0
    dose, cc = sphere(radius, step_mm)
    total, voxel_gy = 4 / 3 * np.pi * radius**3 / 1000, 0.5 * step_mm
    assert cc.sum().item() == pytest.approx(total, rel=0.01)
    assert dvh.mean_dose(dose, cc).item() == pytest.approx(40.0, abs=0.01)
    for percent in (98.0, 95.0, 50.0, 5.0, 2.0):
        expected = hottest_gy(total * percent / 100, radius)
        assert dvh.dose_at_percent(dose, cc, percent).item() == pytest.approx(expected, abs=voxel_gy), percent
    assert dvh.dose_at_cc(dose, cc, 0.1).item() == pytest.approx(hottest_gy(0.1, radius), abs=voxel_gy)
    expected_cc = cap_cc(radius - 10.0, radius)  # 45 Gy lies 10 mm from the centre
    for soft_gy in (0.0, 0.25):
        found = dvh.volume_at_dose(dose, cc, 45.0, soft_gy).item()
        # One voxel's thickness of the disc at that height.
        assert found == pytest.approx(expected_cc, abs=np.pi * (radius**2 - 10.0**2) * step_mm / 1000), soft_gy
    assert dvh.homogeneity(dose, cc).item() == pytest.approx(
        (hottest_gy(0.02 * total, radius) - hottest_gy(0.98 * total, radius)) / 40, abs=2 * voxel_gy / 40
    )


def test_conformity_of_concentric_spheres() -> None:
    """An isodose sphere of radius 12 mm around a target of 10 mm: Paddick's index is (10/12)^3."""
    target_cc, isodose_cc = (torch.tensor([4 / 3 * np.pi * r**3 / 1000]) for r in (10.0, 12.0))
    assert dvh.conformity(target_cc, target_cc, isodose_cc).item() == pytest.approx((10 / 12) ** 3, rel=1e-6)


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    dose = (20 + 40 * torch.rand(2, 30, dtype=torch.float64)).requires_grad_(True)
    cc = 0.01 + 0.2 * torch.rand(30, dtype=torch.float64)
    for rule in (
        lambda d: dvh.dose_at_percent(d, cc, 95.0),
        lambda d: dvh.dose_at_cc(d, cc, 0.1),
        lambda d: dvh.mean_dose(d, cc),
        lambda d: dvh.volume_at_dose(d, cc, 40.0, 0.5),
        lambda d: dvh.homogeneity(d, cc),
    ):
        assert torch.autograd.gradcheck(rule, (dose,), eps=1e-6, atol=1e-6)

"""`simulate private-cohorts`: how many numbers can learn under patient-level noise, by the size of the cohort.

A linear model on random features of a voxel's physics (their number is what would travel) is fitted to phantoms of one
planning style, which are public, and then by private steps to a cohort of another style: each patient's gradient is
clipped to C, the sum gets noise of z C, as in mode `shared`. A surrogate of the network, small enough for cohorts of
10,000 patients: it says where noise leaves something to gain, not how good a network gets.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from privacy.dp.accountant import noise_multiplier
from shared_model.channels.features import highest_gy, physics_features
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, whole_file, write_text
from simulations.phantom.hospitals import STYLES, phantom_case
from simulations.reports.tables import write_json
from simulations.settings.composition import check_number, check_range, compose_values, mapping, path, several

GY = 70.0
# Patients of a file of kept rows; and of a chunk of a step.
KEPT, CHUNK = 100, 100
MOMENTUM = 0.9
RIDGE = 1e-3
# Where each group's seeds begin, so that no patient is in two.
PUBLIC, HELD, COHORT = 0, 1_000_000, 2_000_000


@dataclass(frozen=True, kw_only=True)
class PrivateCohortsSettings:
    """See simulations/conf/private_cohorts.yaml."""

    out: Path
    public_style: str
    style: str
    public: int
    held: int
    cohorts: tuple[int, ...]
    numbers: tuple[int, ...]
    epsilons: tuple[float, ...]
    delta: float
    steps: int
    most: int
    rows: int
    side: int
    seeds: tuple[int, ...]
    workers: int

    def __post_init__(self) -> None:
        for key in ("public_style", "style"):
            if not isinstance(getattr(self, key), str) or getattr(self, key) not in STYLES:
                raise InputError(f"{key}={getattr(self, key)!r}: expected one of {', '.join(STYLES)}")
        for key in ("public", "held", "steps", "most", "rows", "workers"):
            check_range(key, getattr(self, key), 1, 1_000_000)
        check_range("side", self.side, 12, 128)
        for cohort in self.cohorts:
            check_range("cohorts", cohort, 1, 100_000)
        for numbers in self.numbers:
            check_range("numbers", numbers, 1, 100_000)
        for seed in self.seeds:
            check_range("seeds", seed, 0, 2**31)
        for value in self.epsilons:
            check_number("privacy.epsilon", value, 1e-3, 1e3)
        check_number("privacy.delta", self.delta, 1e-12, 1e-2)


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Patients' rows: physics features (n, rows, f) and dose over the prescription (n, rows)."""

    features: Tensor
    ratio: Tensor

    def first(self, count: int) -> _Group:
        return _Group(features=self.features[:count], ratio=self.ratio[:count])


@dataclass(frozen=True, kw_only=True)
class _Map:
    """Random Fourier features of standardised physics features (Rahimi and Recht 2007), and a constant."""

    mean: Tensor
    sd: Tensor
    frequencies: Tensor
    phases: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """(..., f) -> (..., numbers)."""
        turned = ((features - self.mean) / self.sd) @ self.frequencies + self.phases
        return turned.cos_().mul_(math.sqrt(2.0 / len(self.phases)))


def private_cohorts_settings(overrides: Sequence[str]) -> PrivateCohortsSettings:
    """Compose and check the settings."""
    raw, _ = compose_values("private_cohorts", overrides)
    privacy = mapping(raw, "privacy")
    lists = {key: several(raw, key) for key in ("cohorts", "numbers", "seeds")}
    lists["epsilons"] = several(privacy, "epsilon", "privacy.epsilon")
    del raw["privacy"]
    return PrivateCohortsSettings(**{**raw, **lists, "out": path(raw["out"], "out")}, delta=privacy["delta"])


def run_private_cohorts(settings: PrivateCohortsSettings, bars: Progress) -> str:
    """Fit and score every cell; writes private_cohorts.json and .md to ``settings.out`` and returns the table."""
    began = time.process_time()
    torch.set_num_threads(1)
    public = _group(settings, settings.public_style, PUBLIC, settings.public, bars)
    held = _group(settings, settings.style, HELD, settings.held, bars)
    cohort = _group(settings, settings.style, COHORT, max(settings.cohorts), bars)
    cells: list[dict[str, float]] = []
    bar = bars.add_task("fits", total=len(settings.numbers) * len(settings.cohorts) * len(settings.seeds), note="")
    for numbers in settings.numbers:
        for seed in settings.seeds:
            features = _map(public, numbers, seed)
            start, rate, clip = _public_fit(public, features)
            cells.append(_cell(0, numbers, 0.0, seed, _error(held, features, start)))
            for size in settings.cohorts:
                for wanted in (math.inf, *settings.epsilons):
                    weights = _private_fit(settings, cohort.first(size), features, start, rate, clip, wanted, seed)
                    cells.append(_cell(size, numbers, wanted, seed, _error(held, features, weights)))
                bars.advance(bar)
    write_json(settings.out / "private_cohorts.json", {"cells": cells, "cpu_s": round(time.process_time() - began, 1)})
    table = _table(settings, cells)
    write_text(settings.out / "private_cohorts.md", table + "\n", mode=ORDINARY)
    return table


def _cell(cohort: int, numbers: int, epsilon: float, seed: int, error: float) -> dict[str, float]:
    told = -1.0 if math.isinf(epsilon) else epsilon
    return {"cohort": cohort, "numbers": numbers, "epsilon": told, "seed": seed, "mae_gy": error}


def _group(settings: PrivateCohortsSettings, style: str, first: int, count: int, bars: Progress) -> _Group:
    """Patients of a style; each file of KEPT of them is made once."""
    jobs = [(settings.out / "rows", style, first + k, settings.rows, settings.side) for k in range(0, count, KEPT)]
    bar = bars.add_task(f"phantoms, {style}", total=len(jobs), note="")
    parts = []
    with ProcessPoolExecutor(settings.workers) as pool:
        for features, ratio in pool.map(_rows, jobs):
            parts.append((features, ratio))
            bars.advance(bar)
    features, ratio = (np.concatenate(part)[:count] for part in zip(*parts, strict=True))
    return _Group(features=torch.from_numpy(features).float(), ratio=torch.from_numpy(ratio).float())


def _rows(job: tuple[Path, str, int, int, int]) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Features and dose of KEPT phantoms at chosen voxels of the body, from their file if it is there."""
    folder, style, first, rows, side = job
    file = folder / f"{style}_{first}_{rows}_{side}.npz"
    if not file.is_file():
        torch.set_num_threads(1)
        features, ratio = [], []
        for seed in range(first, first + KEPT):
            case = phantom_case(seed, STYLES[style], (side, side, side))
            assert case.dose_gy is not None
            found = physics_features(case)
            chosen = np.random.RandomState(seed % 2**32).choice(len(found), rows, replace=len(found) < rows)
            features.append(found[chosen])
            ratio.append(case.dose_gy[case.body][chosen] / np.float32(highest_gy(case)))
        with whole_file(file, ORDINARY) as stream:
            np.savez(stream, features=np.stack(features).astype(np.float16), ratio=np.stack(ratio).astype(np.float16))
    with np.load(file) as kept:
        return kept["features"], kept["ratio"]


def _map(public: _Group, numbers: int, seed: int) -> _Map:
    flat = public.features.flatten(0, 1)
    generator = torch.Generator().manual_seed(seed)
    width = flat.shape[1]
    frequencies = torch.randn(width, numbers, generator=generator) / math.sqrt(width)
    phases = 2 * math.pi * torch.rand(numbers, generator=generator)
    return _Map(mean=flat.mean(0), sd=flat.std(0).clamp_min(1e-3), frequencies=frequencies, phases=phases)


def _public_fit(public: _Group, features: _Map) -> tuple[Tensor, float, float]:
    """Ridge regression on public patients, then the step size and the clip that their gradients suggest."""
    inputs, wanted = features(public.features.flatten(0, 1)), public.ratio.flatten()
    moment = inputs.T @ inputs / len(inputs)
    steepest = float(torch.linalg.eigvalsh(moment)[-1])
    weights = torch.linalg.solve(moment + RIDGE * steepest * torch.eye(len(moment)), inputs.T @ wanted / len(inputs))
    clip = float(_gradients(public, features, weights).norm(dim=1).median())
    return weights, 1.0 / steepest, clip


def _gradients(group: _Group, features: _Map, weights: Tensor) -> Tensor:
    """Each patient's gradient (n, numbers) of half the mean squared error."""
    inputs = features(group.features)
    wrong = inputs @ weights - group.ratio
    return torch.einsum("nrp,nr->np", inputs, wrong) / inputs.shape[1]


def _private_fit(
    settings: PrivateCohortsSettings,
    cohort: _Group,
    features: _Map,
    start: Tensor,
    rate: float,
    clip: float,
    epsilon: float,
    seed: int,
) -> Tensor:
    """Mean of the last half of the steps' weights; ``epsilon`` infinite: the same steps without noise or clip."""
    size, open_ = len(cohort.ratio), math.isinf(epsilon)
    q = min(1.0, settings.most / size)
    z = 0.0 if open_ else noise_multiplier(epsilon, settings.delta, q, settings.steps)
    generator = torch.Generator().manual_seed(seed + 1)
    weights, moving, mean, taken = start.clone(), torch.zeros_like(start), torch.zeros_like(start), 0
    for step in range(settings.steps):
        chosen = (torch.rand(size, generator=generator) < q).nonzero()[:, 0]
        total = torch.zeros_like(start)
        for part in chosen.split(CHUNK):
            each = _gradients(_Group(features=cohort.features[part], ratio=cohort.ratio[part]), features, weights)
            if not open_:
                each *= (clip / each.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1.0)
            total += each.sum(0)
        total += z * clip * torch.randn(len(start), generator=generator)
        moving = MOMENTUM * moving + total / (q * size)
        weights = weights - (1 - MOMENTUM) * rate * moving
        if step >= settings.steps // 2:
            mean, taken = mean + weights, taken + 1
    return mean / taken


def _error(group: _Group, features: _Map, weights: Tensor) -> float:
    """Mean absolute error at the rows, Gy at a prescription of GY."""
    parts = [
        (features(f) @ weights - r).abs().mean(1)
        for f, r in zip(group.features.split(CHUNK), group.ratio.split(CHUNK), strict=True)
    ]
    return GY * float(torch.cat(parts).mean())


def _table(settings: PrivateCohortsSettings, cells: Sequence[dict[str, float]]) -> str:
    kinds = [("no noise", -1.0), *((f"epsilon {value:g}", value) for value in settings.epsilons)]
    head = ["numbers", "public alone", *(f"{size:,}, {name}" for size in settings.cohorts for name, _ in kinds)]
    lines = [f"| {' | '.join(head)} |", "|" + "---:|" * len(head)]
    for numbers in settings.numbers:
        wanted = [(0, 0.0), *((size, value) for size in settings.cohorts for _, value in kinds)]
        row = [f"{numbers:,}"]
        for size, value in wanted:
            same = [c["mae_gy"] for c in cells if (c["numbers"], c["cohort"], c["epsilon"]) == (numbers, size, value)]
            spread = f" ± {np.std(same, ddof=1):.2f}" if len(same) > 1 else ""
            row.append(f"{np.mean(same):.2f}{spread}")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)

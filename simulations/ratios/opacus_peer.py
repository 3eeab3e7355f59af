"""Gradients of single patients: our loop beside Opacus' hooks, on one network and batch, in one run.

``python -m simulations.ratios.opacus_peer [--patients 8] [--side 16] [--json]``. The network is a small convolutional
one (Conv3d, GroupNorm, Linear) that Opacus knows without help of ours. CPU seconds on one thread, the least of REPEATS;
clipping and noise are left out on both sides. Before that both must give the same gradients, else it ends with 1.
"""

from __future__ import annotations

import argparse
import copy

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from privacy.dp.clipping import flatten_gradient
from simulations.benchmarks.printing import print_numbers
from simulations.benchmarks.private_step import cpu_s

REPEATS = 10
CHANNELS, WIDTH = 4, 16
# Largest difference of the two, beside the largest gradient.
TOLERANCE = 1e-4


def small_network() -> nn.Module:
    """Two convolutions and a head, the same numbers each time."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(CHANNELS, WIDTH, 3, padding=1),
        nn.GroupNorm(4, WIDTH),
        nn.SiLU(),
        nn.Conv3d(WIDTH, 2 * WIDTH, 3, stride=2, padding=1),
        nn.GroupNorm(4, 2 * WIDTH),
        nn.SiLU(),
        nn.AdaptiveAvgPool3d(2),
        nn.Flatten(),
        nn.Linear(8 * 2 * WIDTH, 10),
    )


def one_by_one(network: nn.Module, batch: Tensor) -> Tensor:
    """Our way, as client/training/patient_gradients.py: one patient after the other; (patients, numbers)."""
    parameters = list(network.parameters())
    sizes = [p.numel() for p in parameters]
    found = [
        flatten_gradient(torch.autograd.grad(_loss(network(one[None])), parameters, allow_unused=True), sizes)
        for one in batch
    ]
    return torch.stack(found)


def by_hooks(hooked: GradSampleModule, batch: Tensor) -> Tensor:
    """Opacus' way: one backward pass whose hooks keep each patient's part; (patients, numbers)."""
    hooked.zero_grad()
    _loss(hooked(batch)).backward()
    return torch.cat([p.grad_sample.flatten(1) for p in hooked.parameters()], dim=1)


def _loss(out: Tensor) -> Tensor:
    """Sum over patients, so that each one's gradient is that of its own loss."""
    return out.square().mean(1).sum()


def measure(patients: int, side: int) -> dict[str, float]:
    """CPU seconds of both ways on so many patients of ``side`` voxels a side. SystemExit if their gradients differ."""
    network = small_network()
    hooked = GradSampleModule(copy.deepcopy(network), loss_reduction="sum")
    batch = torch.randn((patients, CHANNELS, side, side, side), generator=torch.Generator().manual_seed(1))
    ours, theirs = one_by_one(network, batch), by_hooks(hooked, batch)
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    if not difference < TOLERANCE:
        raise SystemExit(f"our gradients and Opacus' differ by {difference:.2g} of the largest")
    costs = [cpu_s(lambda: one_by_one(network, batch), REPEATS), cpu_s(lambda: by_hooks(hooked, batch), REPEATS)]
    return {
        "patients": patients,
        "side": side,
        "numbers": ours.shape[1],
        "difference": difference,
        "ours_cpu_s": round(costs[0], 4),
        "opacus_cpu_s": round(costs[1], 4),
        "ratio": round(costs[0] / costs[1], 4),
    }


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=8)
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print_numbers("Gradients of single patients", measure(asked.patients, asked.side), as_json=asked.json)


if __name__ == "__main__":
    main()

"""CPU seconds of one training step by patch size and attention, as ratios within one run.

``python -m simulations.benchmarks.step_cost [--json]``: batch of 4, seven modalities at 32^3, bf16, one thread.
Decision 2 and ``PLAIN_ATTENTION_TOKENS`` rest on it.
"""

from __future__ import annotations

import argparse
import json
import time
from unittest import mock

import torch

from shared_model.diffusion.latents import CHANNELS, latent_shape
from shared_model.network import attention
from shared_model.network.device import autocast
from shared_model.network.dit import Any2AnyDiT
from shared_model.network.spec import Architecture
from shared_model.patient.case import CONDITIONS

SIDE, BATCH, REPEATS = 32, 4, 6


def step_seconds(arch: Architecture, side: int, batch: int, repeats: int) -> list[float]:
    """CPU seconds of each of ``repeats`` steps (forward, backward, AdamW) on a grid of ``side`` voxels a side."""
    torch.manual_seed(0)
    model = Any2AnyDiT(arch)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    shape = (batch, CHANNELS, *latent_shape((side, side, side)))
    conditions = {name: torch.randn(shape) for name in CONDITIONS}
    noisy, times = torch.randn(shape), torch.rand(batch)
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        with autocast(torch.device("cpu"), "bf16"):
            velocity = model(conditions, "dose", noisy, times)
        optimiser.zero_grad(set_to_none=True)
        velocity.float().square().mean().backward()
        optimiser.step()
        seconds.append(time.process_time() - started)
    return seconds


def step_cpu_s(arch: Architecture, plain_tokens: int) -> float:
    """Least CPU seconds of a step over REPEATS; plain attention up to ``plain_tokens``."""
    with mock.patch.object(attention, "PLAIN_ATTENTION_TOKENS", plain_tokens):
        return min(step_seconds(arch, SIDE, BATCH, REPEATS))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    torch.set_num_threads(1)
    variants = {
        "patch 2x2x2, plain attention (default)": (Architecture(), 10**6),
        "patch 2x2x2, fused attention": (Architecture(), 0),
        "patch 1x2x2, fused attention": (Architecture(patch=(1, 2, 2)), 0),
        "patch 1x2x2, plain attention": (Architecture(patch=(1, 2, 2)), 10**6),
    }
    costs = {name: step_cpu_s(arch, plain) for name, (arch, plain) in variants.items()}
    base = next(iter(costs.values()))
    if as_json:
        print(json.dumps(costs))
        return
    print("| variant | CPU-s a step | ratio |\n|---|---:|---:|")
    for name, seconds in costs.items():
        print(f"| {name} | {seconds:.3f} | {seconds / base:.2f} |")


if __name__ == "__main__":
    main()

"""Tokens, time and memory of a training step by the size of the training grid, and what the latents alone cost.

``python -m simulations.benchmarks.training_sizes [--json]``: one patient a step, bf16, one thread, each size in a
process of its own, so that its peak of memory is its own. Latents: a phantom's dose, encoded and decoded, scored
against itself.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

from shared_model.case import CONDITIONS
from shared_model.dit import Any2AnyDiT
from shared_model.latents import CHANNELS, decode, encode, latent_shape
from shared_model.spec import Architecture
from simulations.phantom import STYLES, phantom_case

SIDES = (16, 32, 48, 64)
REPEATS = 5


def measure(side: int) -> dict[str, float]:
    """One size in this process: tokens, CPU seconds of a step (median and spread of REPEATS), peak memory in MB."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    arch = Architecture()
    model = Any2AnyDiT(arch)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    cells = latent_shape((side, side, side))
    shape = (1, CHANNELS, *cells)
    conditions = {name: torch.randn(shape) for name in CONDITIONS}
    noisy, times = torch.randn(shape), torch.rand(1)
    slot = 1
    for n, p in zip(cells, arch.patch, strict=True):
        slot *= n // p
    seconds = []
    for _ in range(REPEATS + 1):
        started = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            velocity = model(conditions, "dose", noisy, times)
        optimiser.zero_grad(set_to_none=True)
        velocity.float().square().mean().backward()
        optimiser.step()
        seconds.append(time.process_time() - started)
    dose = torch.from_numpy(phantom_case(0, STYLES["openkbp_like"], (side, side, side)).dose_gy)[None]
    # The first step also pays for what is made once.
    return {
        "tokens": slot * (len(CONDITIONS) + 1),
        "cpu_s": statistics.median(seconds[1:]),
        "cpu_s_sd": statistics.stdev(seconds[1:]),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "latents_gy": float((decode(encode(dose)) - dose).abs().mean()),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side:
        print(json.dumps(measure(chosen.side)))
        return
    rows = {}
    for side in SIDES:
        command = [sys.executable, "-m", "simulations.benchmarks.training_sizes", "--side", str(side)]
        rows[side] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    if chosen.json:
        print(json.dumps(rows))
        return
    base = rows[32]["cpu_s"]
    print("| grid | tokens | CPU-s a step | ratio to 32^3 | steps an hour | peak memory (MB) | latents alone (Gy) |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for side, row in rows.items():
        print(
            f"| {side}^3 | {row['tokens']} | {row['cpu_s']:.3f} ± {row['cpu_s_sd']:.3f} | {row['cpu_s'] / base:.2f} "
            f"| {3600 / row['cpu_s']:.0f} | {row['peak_mb']:.0f} | {row['latents_gy']:.1e} |"
        )


if __name__ == "__main__":
    main()

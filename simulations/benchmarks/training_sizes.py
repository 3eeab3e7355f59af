"""Tokens, time and memory of a training step by the size of the training grid, and what the latents alone cost.

``python -m simulations.benchmarks.training_sizes [--json]``: one patient a step, bf16, one thread, each size in a
process of its own, so that its peak of memory is its own. Latents: a phantom's dose, encoded and decoded, scored
against itself.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys

import torch

from shared_model.diffusion.latents import decode, encode, latent_shape
from shared_model.network.spec import Architecture
from shared_model.patient.case import CONDITIONS
from simulations.benchmarks.step_cost import step_seconds
from simulations.phantom.hospitals import STYLES, phantom_case

SIDES = (16, 32, 48, 64)
REPEATS = 5


def measure(side: int) -> dict[str, float]:
    """One size in this process: tokens, CPU seconds of a step (median and spread of REPEATS), peak memory in MB."""
    torch.set_num_threads(1)
    arch = Architecture()
    # The first step also pays for what is made once.
    seconds = step_seconds(arch, side, 1, REPEATS + 1)[1:]
    tokens = math.prod(latent_shape((side, side, side))) // math.prod(arch.patch) * (len(CONDITIONS) + 1)
    dose = torch.from_numpy(phantom_case(0, STYLES["openkbp_like"], (side, side, side)).dose_gy)[None]
    return {
        "tokens": tokens,
        "cpu_s": statistics.median(seconds),
        "cpu_s_sd": statistics.stdev(seconds),
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

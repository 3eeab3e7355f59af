"""A training step of the small U-shaped network in bf16 beside one in float32, in one run.

``python -m simulations.ratios.step_precision [--side 32] [--json]``: CPU seconds of a sample on one thread, steps of
``simulate train``'s recipe on phantoms. A CPU without bf16 computes float32 both times (network/device.py), so that the
ratio is about 1 there.
"""

from __future__ import annotations

import argparse

import torch

from shared_model.network.pyramid import SIZES
from simulations.benchmarks.printing import print_numbers
from simulations.benchmarks.pyramid_cost import measure_training


def measure(side: int) -> dict[str, float]:
    """CPU seconds of a sample of ``side`` voxels a side in both."""
    costs = {kind: 1.0 / measure_training(side, kind, SIZES["small"])["samples_cpu_s"] for kind in ("fp32", "bf16")}
    return {
        "side": side,
        **{f"{kind}_cpu_s": round(seconds, 4) for kind, seconds in costs.items()},
        "ratio": round(costs["bf16"] / costs["fp32"], 4),
    }


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print_numbers("A training step in bf16 beside float32", measure(asked.side), as_json=asked.json)


if __name__ == "__main__":
    main()

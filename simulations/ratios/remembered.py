"""Drawing a dose with conditions that are remembered beside computing them at each step, in one run.

``python -m simulations.ratios.remembered [--side 32] [--steps 4] [--json]``: the small U-shaped network draws one dose
of a phantom by DDIM steps; CPU seconds on one thread, the least of REPEATS. Before that both must give the same dose,
else it ends with 1.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from shared_model.channels.volumes import PatientChannels, patient_channels
from shared_model.forms.volume_sampling import SHIFT, body_in_frame, patient_noise, samples
from shared_model.network.device import autocast, compute_dtype
from shared_model.network.pyramid import SIZES, PyramidDiT
from shared_model.network.schedule import sample_ddim, velocity_of_clean
from shared_model.patient.case import CONDITIONS
from shared_model.training.step import conditions_of
from shared_model.training.views import View, seen_from
from simulations.benchmarks.printing import print_numbers
from simulations.benchmarks.private_step import cpu_s
from simulations.phantom.hospitals import STYLES, phantom_case

REPEATS = 3
# Largest difference of the two samples, whose unit is about the spread of doses.
TOLERANCE = 1e-3


def uneven_network() -> PyramidDiT:
    """The small network with random numbers everywhere: a new one ends in zeros, and would draw the same for all."""
    torch.manual_seed(0)
    network = PyramidDiT(SIZES["small"]).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return network


@torch.no_grad()
def each_time(network: PyramidDiT, patient: PatientChannels, noise: Tensor, steps: int) -> Tensor:
    """A clean sample (1, C, z, y, x) for which the network computes the conditions at every step."""
    cpu, names = torch.device("cpu"), [m for m in CONDITIONS if m in patient.present]
    dtype = compute_dtype(cpu, "bf16")
    conditions = conditions_of(seen_from(patient, View()), patient.layout, names, cpu, dtype)
    inside = body_in_frame(patient) > 0

    def velocity(x_t: Tensor, t_b: Tensor) -> Tensor:
        with autocast(cpu, "bf16"):
            clean = network(conditions, "dose", x_t, t_b) * inside
        return velocity_of_clean(x_t, clean, t_b)

    return sample_ddim(velocity, noise, steps, shift=SHIFT)


def measure(side: int, steps: int) -> dict[str, float]:
    """CPU seconds of one dose of ``side`` voxels a side both ways. SystemExit if they differ."""
    network = uneven_network()
    patient = patient_channels(phantom_case(0, STYLES["openkbp_like"], (side, side, side)))
    noise = patient_noise(patient, 1, torch.Generator().manual_seed(0))
    both = samples(network, patient, noise, steps=steps), each_time(network, patient, noise, steps)
    difference = float((both[0] - both[1]).abs().max())
    if not difference < TOLERANCE:
        raise SystemExit(f"the doses differ by {difference:.2g}")
    kept = cpu_s(lambda: samples(network, patient, noise, steps=steps), REPEATS)
    computed = cpu_s(lambda: each_time(network, patient, noise, steps), REPEATS)
    return {
        "side": side,
        "steps": steps,
        "largest": round(float(both[0].abs().max()), 3),
        "difference": difference,
        "remembered_cpu_s": round(kept, 4),
        "each_time_cpu_s": round(computed, 4),
        "ratio": round(kept / computed, 4),
    }


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(asked.side, asked.steps)
    print_numbers("Conditions remembered beside computed at each step", found, as_json=asked.json)


if __name__ == "__main__":
    main()

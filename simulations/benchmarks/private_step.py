"""CPU seconds of a private release by part, beside one training step of the default model, as ratios within one run.

``python -m simulations.benchmarks.private_step [--numbers N] [--json]``: one thread; encoding and noise for N numbers,
and a step that clips each of four patients against a plain step on one batch of the same views of the same four, with
one view a patient and with two, the default of a plan.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch

from privacy.dp.clipping import flatten_gradient
from privacy.dp.encoding import FINE, add_fine_integers, to_ring
from privacy.dp.noise import NoiseStream, integer_gaussian
from privacy.dp.release import clipped_sum
from privacy.dp.terms import PrivacyTerms
from shared_model.diffusion.latents import CHANNELS, latent_shape
from shared_model.network.device import autocast
from shared_model.network.dit import Any2AnyDiT
from shared_model.network.spec import Architecture
from shared_model.patient.case import CONDITIONS

PATIENTS, SIDE, REPEATS = 4, 32, 8


def cpu_s(action: Callable[[], object], repeats: int = REPEATS) -> float:
    """Least CPU seconds of ``action``."""
    found = []
    for _ in range(repeats):
        started = time.process_time()
        action()
        found.append(time.process_time() - started)
    return min(found)


def release_costs(numbers: int) -> dict[str, float]:
    """CPU seconds of each part of a release, by how many numbers it holds."""
    terms = PrivacyTerms(
        mode="shared", z=2.0, q=1.0, steps=1, clip=1.0, delta=1e-5, cohort=200, sites=5, survivors=5, colluders=1
    )  # fmt: skip
    how, gradient = terms.encoding(), torch.randn(numbers)
    total = np.zeros(numbers, dtype=np.int64)
    stream = NoiseStream()
    tables = cpu_s(lambda: integer_gaussian(how.sigma_site, 1, stream), repeats=1)
    return {
        "tables of noise, once a process": tables,
        "joining, a patient": cpu_s(lambda: flatten_gradient([gradient], [numbers])),
        "clipping, encoding and adding, a patient": cpu_s(
            lambda: add_fine_integers(total, gradient.numpy(), 1.0, stream)
        ),
        "noise, a site": cpu_s(lambda: integer_gaussian(how.sigma_site, numbers, stream)),
        f"coarsening to {how.bits} bits, a site": cpu_s(lambda: how.release(total, total)),
        "ring of 32 bits, a site": cpu_s(lambda: to_ring(total, 32)),
    }


def model_gradients(examples: int) -> tuple[Callable[[slice], tuple[torch.Tensor | None, ...]], list[int]]:
    """A function for the default model's gradient on some of the random examples at 32^3, and its parameters' sizes."""
    torch.manual_seed(0)
    model = Any2AnyDiT(Architecture())
    parameters = list(model.parameters())
    shape = (examples, CHANNELS, *latent_shape((SIDE, SIDE, SIDE)))
    volumes = {name: torch.randn(shape) for name in CONDITIONS}
    noisy, times = torch.randn(shape), torch.rand(examples)

    def gradient(rows: slice) -> tuple[torch.Tensor | None, ...]:
        with autocast(torch.device("cpu"), "bf16"):
            out = model({name: v[rows] for name, v in volumes.items()}, "dose", noisy[rows], times[rows])
        return torch.autograd.grad(out.float().square().mean(), parameters, allow_unused=True)

    return gradient, [p.numel() for p in parameters]


def step_costs(views: int) -> list[tuple[str, float, float]]:
    """Name, CPU seconds and ratio to a plain step: for steps on views of each of four patients, and slower ways."""
    gradient, sizes = model_gradients(PATIENTS * views)
    patients = [slice(i * views, (i + 1) * views) for i in range(PATIENTS)]
    terms = PrivacyTerms(
        mode="local", z=2.0, q=1.0, steps=1, clip=1.0, delta=1e-5, cohort=12, sites=3, survivors=3, colluders=1
    )  # fmt: skip

    def one_by_one() -> None:
        for rows in patients:
            gradient(rows)

    def private() -> None:
        stream = NoiseStream()
        clipped_sum(
            PATIENTS, sum(sizes), lambda i: flatten_gradient(gradient(patients[i]), sizes).numpy(), terms, stream
        )
        integer_gaussian(2.0 * FINE, sum(sizes), stream)

    plain = cpu_s(lambda: gradient(slice(None)))
    each = f"four patients, views each: {views}"
    costs = {f"plain step, {each}": plain, "the same, one by one": cpu_s(one_by_one), "private step": cpu_s(private)}
    return [(name, seconds, seconds / plain) for name, seconds in costs.items()]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numbers", type=int, default=5_000_000)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    costs, steps = release_costs(asked.numbers), [*step_costs(1), *step_costs(2)]
    rows = [*((part, seconds, seconds / steps[0][1]) for part, seconds in costs.items()), *steps]
    if asked.json:
        print(json.dumps([dict(zip(("part", "cpu_s", "of_plain_step"), row, strict=True)) for row in rows]))
        return
    print(f"| {asked.numbers:,} numbers (steps: 1.2M weights) | CPU-s | of a plain step |\n|---|---:|---:|")
    for part, seconds, ratio in rows:
        print(f"| {part} | {seconds:.3f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()

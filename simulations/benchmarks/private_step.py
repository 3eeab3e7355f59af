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

from privacy.clipping import joined
from privacy.encoding import FINE, add_fine_integers, to_ring
from privacy.modes import Terms
from privacy.noise import NoiseStream, integer_gaussian
from privacy.release import clipped_sum
from shared_model.case import CONDITIONS
from shared_model.dit import Any2AnyDiT
from shared_model.latents import CHANNELS, latent_shape
from shared_model.spec import Architecture

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
    """CPU seconds of each part of a release of so many numbers: the first two for a patient, the others for a site."""
    terms = Terms(
        mode="shared", z=2.0, q=1.0, steps=1, clip=1.0, delta=1e-5, cohort=200, sites=5, survivors=5, colluders=1
    )  # fmt: skip
    how, gradient = terms.encoding(), torch.randn(numbers)
    total = np.zeros(numbers, dtype=np.int64)
    stream = NoiseStream()
    integer_gaussian(how.sigma_site, 10, stream)  # its tables are made once
    return {
        "joining, a patient": cpu_s(lambda: joined([gradient], [numbers])),
        "clipping, encoding and adding, a patient": cpu_s(
            lambda: add_fine_integers(total, gradient.numpy(), 1.0, stream)
        ),
        "noise, a site": cpu_s(lambda: integer_gaussian(how.sigma_site, numbers, stream)),
        f"coarsening to {how.bits} bits, a site": cpu_s(lambda: how.release(total, total)),
        "ring of 32 bits, a site": cpu_s(lambda: to_ring(total, 32)),
    }


def step_costs(views: int) -> tuple[float, float]:
    """CPU seconds of a plain step on so many views of four patients, default model at 32^3, and of a private one."""
    torch.manual_seed(0)
    model = Any2AnyDiT(Architecture())
    parameters = list(model.parameters())
    shape = (PATIENTS * views, CHANNELS, *latent_shape((SIDE, SIDE, SIDE)))
    volumes = {name: torch.randn(shape) for name in CONDITIONS}
    noisy, times = torch.randn(shape), torch.rand(PATIENTS * views)

    def gradient(rows: slice) -> tuple[torch.Tensor | None, ...]:
        with torch.autocast("cpu", torch.bfloat16):
            out = model({name: v[rows] for name, v in volumes.items()}, "dose", noisy[rows], times[rows])
        return torch.autograd.grad(out.float().square().mean(), parameters, allow_unused=True)

    sizes = [p.numel() for p in parameters]
    terms = Terms(
        mode="local", z=2.0, q=1.0, steps=1, clip=1.0, delta=1e-5, cohort=4, sites=1, survivors=1, colluders=0
    )  # fmt: skip

    def private() -> None:
        stream = NoiseStream()

        def vector_of(i: int) -> np.ndarray:
            return joined(gradient(slice(i * views, (i + 1) * views)), sizes).numpy()

        clipped_sum(PATIENTS, sum(sizes), vector_of, terms, stream)
        integer_gaussian(2.0 * FINE, sum(sizes), stream)

    return cpu_s(lambda: gradient(slice(0, PATIENTS * views))), cpu_s(private)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numbers", type=int, default=5_000_000)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    costs, (plain, private), two = release_costs(asked.numbers), step_costs(1), step_costs(2)
    rows = [(part, seconds, seconds / plain) for part, seconds in costs.items()]
    rows += [
        ("plain step, four patients, one view each", plain, 1.0),
        ("private step, the same", private, private / plain),
    ]
    rows += [
        ("plain step, four patients, two views each", two[0], 1.0),
        ("private step, the same", two[1], two[1] / two[0]),
    ]
    if asked.json:
        print(json.dumps([dict(zip(("part", "cpu_s", "of_plain_step"), row, strict=True)) for row in rows]))
        return
    print(f"| {asked.numbers:,} numbers (steps: 1.2M weights) | CPU-s | of a plain step |\n|---|---:|---:|")
    for part, seconds, ratio in rows:
        print(f"| {part} | {seconds:.3f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()

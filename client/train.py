"""Local training and scoring at a site: one vector in, one update or a few metrics out.

Randomness is keyed by (seed, site, round), the optimiser starts anew each round: a round can be replayed alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from client.cohort import load_split
from client.latent_cache import encoded
from client.site import SiteConfig
from privacy.messages import EvaluateTask, TrainTask
from shared_model.adapters import adapted_model, trainable
from shared_model.case import Case
from shared_model.dit import Any2AnyDiT
from shared_model.dosimetry import CaseScore, score_case, summarise
from shared_model.errors import InputError
from shared_model.manifest import pack, unpack
from shared_model.modalities import Example, mirror
from shared_model.objective import velocity_loss
from shared_model.predictor import noise_generator, predict_dose
from shared_model.spec import ModelSpec

Vector = NDArray[np.float32]

# A model per thread: the simulation engine trains several sites of one process side by side.
_models = threading.local()
_loading = threading.Lock()


def _model(spec: ModelSpec) -> Any2AnyDiT:
    cache: dict[ModelSpec, Any2AnyDiT] = _models.__dict__.setdefault("by_spec", {})
    if spec not in cache:
        cache.clear()
        cache[spec] = adapted_model(spec)
    return cache[spec]


@lru_cache(maxsize=64)
def _examples(site: SiteConfig, spec: ModelSpec) -> tuple[Example, ...]:
    """Training examples: every patient as it is and mirrored left to right, neighbours in the tuple."""
    cases = load_split(site, "train")
    if not cases:
        raise InputError(f"site {site.site}: no training cases; list some under 'train' in the site configuration")
    for case in cases:
        if case.dose_gy is None:
            raise InputError(f"site {site.site}: case {case.case_id} has no dose and cannot be trained on")
    return tuple(encoded(c, spec, site.cache) for case in cases for c in (case, mirror(case)))


@lru_cache(maxsize=64)
def _validation(site: SiteConfig, spec: ModelSpec) -> tuple[tuple[Case, Example], ...]:
    return tuple((case, encoded(case, spec, site.cache)) for case in load_split(site, "validation"))


def _batches(examples: Sequence[Example], size: int, generator: torch.Generator) -> Iterator[list[Example]]:
    """Endless batches of ``size``, each patient once (either way round) before any comes again."""
    patients = len(examples) // 2
    queue: list[int] = []
    while True:
        while len(queue) < size:
            queue += torch.randperm(patients, generator=generator).tolist()
        chosen, queue = queue[:size], queue[size:]
        sides = torch.randint(2, (size,), generator=generator).tolist()
        yield [examples[2 * patient + side] for patient, side in zip(chosen, sides, strict=True)]


def train_round(site: SiteConfig, spec: ModelSpec, vector: Vector, task: TrainTask) -> tuple[Vector, dict[str, float]]:
    """Train ``task.local_steps`` steps from ``vector`` (d,); returns (local minus global (d,), metrics).

    AdamW with the round's learning rate, gradients clipped to ``task.grad_clip``. Raises InputError on bad data.
    """
    started = time.monotonic()
    with _loading:
        examples = _examples(site, spec)
    model = _model(spec)
    unpack(model, vector)
    model.train()
    parameters = list(trainable(model).values())
    optimiser = torch.optim.AdamW(parameters, lr=task.lr, weight_decay=task.weight_decay)
    generator = noise_generator(task.seed, site.site, str(task.round))
    losses: list[float] = []
    batches = _batches(examples, task.batch_size, generator)
    for _ in range(task.local_steps):
        loss = velocity_loss(model, next(batches), task.stage, generator, spec.precision)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, task.grad_clip)
        optimiser.step()
        losses.append(loss.item())
    metrics = {"loss": float(np.mean(losses)), "seconds": time.monotonic() - started}
    return pack(model) - vector, metrics


def score_validation(site: SiteConfig, spec: ModelSpec, vector: Vector, task: EvaluateTask) -> list[CaseScore]:
    """Score the model at ``vector`` on each of the site's validation patients, on their own grids."""
    with _loading:
        cases = _validation(site, spec)
    model = _model(spec)
    unpack(model, vector)
    model.eval()
    return [
        score_case(
            case,
            predict_dose(
                model,
                case,
                spec,
                steps=task.sampler_steps,
                candidates=task.candidates,
                seed=task.seed,
                patient=patient,
            ),
        )
        for case, patient in cases
    ]


def evaluate_round(site: SiteConfig, spec: ModelSpec, vector: Vector, task: EvaluateTask) -> dict[str, float]:
    """Mean scores over the site's validation patients (dosimetry.summarise)."""
    return summarise(score_validation(site, spec, vector, task))

"""Local training and scoring at a site: one vector in, one update or a few metrics out.

Randomness is keyed by (seed, site, round) and the optimiser starts anew each round, so a round can be replayed alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from client.data.kept import latest_per_site
from client.data.latent_cache import encode_case
from client.data.load import load_split
from client.site.config import SiteConfig
from client.training.base import base_doses, base_rows
from privacy.wire.messages import EvaluateTask, TrainTask
from shared_model.adapter.manifest import pack, unpack
from shared_model.adapter.shared import adapted_model, trainable
from shared_model.base.interface import TrainingRows, base_of
from shared_model.base.model import BASE_PREFIX, DoseModel, base_weights
from shared_model.core.errors import InputError
from shared_model.core.vector import Vector
from shared_model.diffusion.modalities import Example, mirror
from shared_model.diffusion.objective import velocity_loss
from shared_model.network.spec import TRAINED, ModelSpec
from shared_model.patient.case import Case, Volume
from shared_model.prediction.predictor import noise_generator, predict_dose
from shared_model.scoring.dosimetry import CaseScore, score_case, summarise

# A model per thread: the simulation engine trains several sites of one process side by side.
_models = threading.local()
loading = threading.Lock()


def resident_model(spec: ModelSpec) -> DoseModel:
    """Return this thread's model of ``spec``, kept from call to call."""
    cache: dict[ModelSpec, DoseModel] = _models.__dict__.setdefault("by_spec", {})
    if spec not in cache:
        cache.clear()
        cache[spec] = adapted_model(spec)
    return cache[spec]


def data_part(spec: ModelSpec) -> ModelSpec:
    """Return the part of a spec that shapes the examples: latents, grid and base."""
    default = ModelSpec()
    return replace(
        spec,
        init_seed=default.init_seed,
        adapter=default.adapter,
        rank=default.rank,
        alpha=default.alpha,
        precision=default.precision,
        switches=default.switches,
    )


@latest_per_site
def training_examples(site: SiteConfig, spec: ModelSpec, weights: bytes) -> tuple[Example, ...]:
    """Return the training examples: each patient as they are, followed by the same mirrored left to right.

    ``weights``, here and below: those of a base that trains.
    """
    cases = load_split(site, "train")
    if not cases:
        raise InputError(f"site {site.site}: no training cases; list some under 'train' in the site configuration")
    found: list[Example] = []
    for case, base in zip(cases, base_doses(site, spec, weights, "train"), strict=True):
        # The features see no side, so the base of a mirrored case is the mirrored base.
        mirrored = None if base is None else np.ascontiguousarray(base[:, :, ::-1])
        found += [encode_case(c, spec, site.cache, b) for c, b in ((case, base), (mirror(case), mirrored))]
    return tuple(found)


@latest_per_site
def _validation(site: SiteConfig, spec: ModelSpec, weights: bytes) -> tuple[tuple[Case, Example, Volume | None], ...]:
    cases, bases = load_split(site, "validation"), base_doses(site, spec, weights, "validation")
    return tuple((c, encode_case(c, spec, site.cache, base), base) for c, base in zip(cases, bases, strict=True))


def _batches(examples: Sequence[Example], size: int, generator: torch.Generator) -> Iterator[list[Example]]:
    """Yield batches of ``size`` without end. Each patient comes once, mirrored or not, before any comes again."""
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

    AdamW with the round's learning rate, gradients clipped to ``task.grad_clip``; stage ``base`` trains the base
    alone, the others everything else. Raises InputError on bad data.
    """
    started = time.monotonic()
    model = model_at(spec, vector)
    parameters = stage_parameters(model, task.stage)
    generator = noise_generator(task.seed, site.site, str(task.round))
    step = (_base_losses if task.stage == "base" else _losses)(site, spec, model, task, generator)
    optimiser = torch.optim.AdamW(parameters, lr=task.lr, weight_decay=task.weight_decay)
    losses: list[float] = []
    for _ in range(task.local_steps):
        loss = next(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, task.grad_clip)
        optimiser.step()
        losses.append(loss.item())
    metrics = {"loss": float(np.mean(losses)), "seconds": time.monotonic() - started}
    return pack(model) - vector, metrics


def model_at(spec: ModelSpec, vector: Vector) -> DoseModel:
    """The resident model with the adapter ``vector`` (d,), in training mode."""
    model = resident_model(spec)
    unpack(model, vector)
    model.train()
    return model


def stage_parameters(model: DoseModel, stage: str) -> list[nn.Parameter]:
    """Return what a stage trains, in the order of the vector. InputError for stage base without a base that trains."""
    of_base = stage == "base"
    if of_base and model.base is None:
        raise InputError(f"stage base: the model's base is not one that trains; expected model.base={TRAINED}")
    return [p for name, p in trainable(model).items() if name.startswith(BASE_PREFIX) == of_base]


def stage_examples(site: SiteConfig, spec: ModelSpec, model: DoseModel, stage: str) -> tuple[Example, ...]:
    """Return the training examples of every stage but base; InputError if a stage learns dose and a case has none."""
    with loading:
        examples = training_examples(site, data_part(spec), base_weights(model))
    if stage == "dose":
        for lacking in (e for e in examples if "dose" not in e.latents):
            raise InputError(f"site {site.site}: case {lacking.case_id} has no dose; stage dose cannot train on it")
    return examples


def stage_rows(site: SiteConfig, spec: ModelSpec) -> tuple[TrainingRows, ...]:
    """Rows of each training case that has any, for stage base; InputError where none has."""
    with loading:
        patients = tuple(rows for rows in base_rows(site, data_part(spec)) if rows is not None)
    if not patients:
        raise InputError(f"site {site.site}: no training case has targets; stage base has nothing to train on")
    return patients


def _losses(
    site: SiteConfig, spec: ModelSpec, model: DoseModel, task: TrainTask, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield the loss of the diffusion model, step by step."""
    examples = stage_examples(site, spec, model, task.stage)
    for batch in _batches(examples, task.batch_size, generator):
        yield velocity_loss(model.network, batch, task.stage, generator, spec.precision, task.least_visible)


def _base_losses(
    site: SiteConfig, spec: ModelSpec, model: DoseModel, task: TrainTask, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield the loss of the base, step by step: ``batch_size`` patients a step."""
    base, network = base_of(spec), model.base
    assert network is not None
    patients = stage_rows(site, spec)
    while True:
        chosen = torch.randint(len(patients), (task.batch_size,), generator=generator).tolist()
        yield base.loss(network, [patients[i] for i in chosen], generator)


def score_validation(site: SiteConfig, spec: ModelSpec, vector: Vector, task: EvaluateTask) -> list[CaseScore]:
    """Score the model at ``vector`` on each of the site's validation patients, on their own grids."""
    model = resident_model(spec)
    unpack(model, vector)
    model.eval()
    with loading:
        cases = _validation(site, data_part(spec), base_weights(model))
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
                base=base,
            ),
        )
        for case, patient, base in cases
    ]


def evaluate_round(site: SiteConfig, spec: ModelSpec, vector: Vector, task: EvaluateTask) -> dict[str, float]:
    """Mean scores over the site's validation patients (dosimetry.summarise)."""
    return summarise(score_validation(site, spec, vector, task))

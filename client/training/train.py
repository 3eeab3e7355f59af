"""Local training and scoring at a site: one vector in, one update or a few metrics out.

Randomness is keyed by (seed, site, round) and the optimiser starts anew each round, so a round can be replayed alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from client.data.encoded import encoded, encoded_sides
from client.data.kept import latest_per_site
from client.data.load import load_split, or_none
from client.site.config import SiteConfig
from client.training.base import base_doses, base_rows, case_dose
from client.training.copies import Copies
from client.training.own_heads import heads_memory, with_heads
from client.training.scaffold import SiteControl, control_memory
from privacy.wire.messages import EvaluateTask, TrainTask
from shared_model.adapter.heads import heads
from shared_model.adapter.manifest import pack, unpack
from shared_model.adapter.shared import adapted_model, trainable
from shared_model.base.interface import TrainingRows, base_of
from shared_model.base.model import BASE_PREFIX, DoseModel, base_weights
from shared_model.core.errors import InputError
from shared_model.core.vector import Vector
from shared_model.forms.interface import Lesson, form_of
from shared_model.network.device import chosen_device, chosen_devices, device_of, memory_named
from shared_model.network.seeding import noise_generator
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case, Volume
from shared_model.prediction.predictor import predict_dose
from shared_model.scoring.dosimetry import CaseScore, score_case, summarise

# A model per thread: the simulation engine trains several sites of one process side by side.
_models = threading.local()
loading = threading.Lock()


def resident_model(spec: ModelSpec, device: str = "cpu") -> DoseModel:
    """Return this thread's model of ``spec`` on ``device`` (network/device.py), kept from call to call."""
    cache: dict[tuple[ModelSpec, torch.device], DoseModel] = _models.__dict__.setdefault("by_spec", {})
    place = chosen_device(device)
    if (spec, place) not in cache:
        cache.clear()
        cache[spec, place] = adapted_model(spec).to(place)
    return cache[spec, place]


def data_part(spec: ModelSpec) -> ModelSpec:
    """Return the part of a spec that shapes the examples: latents, grid and base; the pyramid has only its grid."""
    default = ModelSpec()
    prior, its_hash = ("none", "") if spec.network == "pyramid" else (spec.prior, spec.prior_sha256)
    return replace(
        spec,
        prior=prior,
        prior_sha256=its_hash,
        init_seed=default.init_seed,
        size=default.size,
        adapter=default.adapter,
        rank=default.rank,
        alpha=default.alpha,
        precision=default.precision,
        switches=default.switches,
    )


@latest_per_site
def training_patients(site: SiteConfig, spec: ModelSpec, weights: bytes) -> tuple[tuple[Any, ...], ...]:
    """Return the training patients as the model sees them, each in every view that is encoded apart.

    ``weights``, here and below: the base's.
    """
    cases = load_split(site, "train")
    if not cases:
        raise InputError(f"site {site.site}: no training cases; list some under 'train' in the site configuration")
    bases = base_doses(site, spec, weights, "train")
    return tuple(encoded_sides(case, spec, site.cache, base) for case, base in zip(cases, bases, strict=True))


@latest_per_site
def readable_patients(site: SiteConfig, spec: ModelSpec, weights: bytes) -> tuple[tuple[Any, ...], ...]:
    """As ``training_patients``, with no view of a case that cannot be read, which only the site's log says."""

    def views(case: Case) -> tuple[Any, ...]:
        return encoded_sides(case, spec, site.cache, case_dose(case, spec, weights))

    return tuple(or_none(site, case_id, views) or () for case_id in site.train)


@latest_per_site
def _validation(site: SiteConfig, spec: ModelSpec, weights: bytes) -> tuple[tuple[Case, Any, Volume | None], ...]:
    cases, bases = load_split(site, "validation"), base_doses(site, spec, weights, "validation")
    return tuple((c, encoded(c, spec, site.cache, base), base) for c, base in zip(cases, bases, strict=True))


def _batches(patients: Sequence[tuple[Any, ...]], size: int, generator: torch.Generator) -> Iterator[list[Any]]:
    """Yield batches of ``size`` without end. Each patient comes once, in one of their views, before any comes again."""
    queue: list[int] = []
    while True:
        while len(queue) < size:
            queue += torch.randperm(len(patients), generator=generator).tolist()
        chosen, queue = queue[:size], queue[size:]
        views = len(patients[0])
        sides = torch.randint(views, (size,), generator=generator).tolist() if views > 1 else [0] * size
        yield [patients[patient][side] for patient, side in zip(chosen, sides, strict=True)]


def train_round(site: SiteConfig, spec: ModelSpec, vector: Vector, task: TrainTask) -> tuple[Vector, dict[str, float]]:
    """Train ``task.local_steps`` steps from ``vector`` (d,); returns (local minus global (d,), metrics).

    AdamW with the round's learning rate, to which it rises over the first steps where the form of the model asks for
    that; gradients clipped to ``task.grad_clip`` after the pull of ``task.proximal`` to the shared vector (FedProx, Li
    et al. 2020, arXiv:1812.06127); stage ``base`` trains the base alone, the others everything else. With
    ``task.control`` (scaffold.py) and ``task.personal`` (own_heads.py) the site keeps a file from round to round.
    Raises InputError on bad data.
    """
    if not task.personal:
        return _train_round(site, spec, vector, task)
    mask, memory = heads(spec, task.personal), heads_memory(site, spec, task.seed, task.personal)
    start = with_heads(vector, mask, memory.before(task.round)[1])
    update, metrics = _train_round(site, spec, start, task)
    memory.keep(task.round, {"heads": (start + update)[mask]})
    update[mask] = 0.0
    return update, metrics


def _train_round(site: SiteConfig, spec: ModelSpec, vector: Vector, task: TrainTask) -> tuple[Vector, dict[str, float]]:
    started = time.monotonic()
    model = model_at(site, spec, vector)
    parameters = stage_parameters(model, task.stage)
    generator = noise_generator(task.seed, site.site, str(task.round))
    step = (_base_losses if task.stage == "base" else _losses)(site, spec, model, task, generator)
    optimiser = torch.optim.AdamW(parameters, lr=task.lr, weight_decay=task.weight_decay)
    warmup = 0 if task.stage == "base" else form_of(spec).warmup(task.local_steps)
    rates = [task.lr * min(1.0, (number + 1) / warmup) if warmup else task.lr for number in range(task.local_steps)]
    losses: list[float] = []
    shared = [parameter.detach().clone() for parameter in parameters] if task.proximal else []
    memory = control_memory(site, spec, task) if task.control == "scaffold" else None
    control = SiteControl.at(vector, task.round, *memory.before(task.round)) if memory is not None else None
    corrections = [] if control is None else stage_corrections(model, parameters, control.correction)
    for rate in rates:
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad(set_to_none=True)
        parts: list[Tensor] = []
        with memory_named(device_of(model), "training on one patient"):
            for part in next(step):
                part.backward()
                parts.append(part.detach())
        if task.proximal:
            pull_back(parameters, shared, task.proximal)
        torch.nn.utils.clip_grad_norm_(parameters, task.grad_clip)
        optimiser.step()
        correct(corrections, rate)
        # Asked for at the end alone: a device that is asked for a number has to finish first.
        losses.append(sum(part.item() for part in parts))
    metrics = {"loss": float(np.mean(losses)), "seconds": time.monotonic() - started}
    update = pack(model) - vector
    if memory is not None and control is not None:
        memory.keep(task.round, control.after(vector, update, sum(rates)))
    return update, metrics


def stage_corrections(
    model: DoseModel, parameters: Sequence[nn.Parameter], vector: Vector
) -> list[tuple[nn.Parameter, Tensor]]:
    """Cut a vector (d,) into what belongs to each of a stage's ``parameters``, on their device."""
    all_of_them = list(trainable(model).values())
    parts = np.split(vector, np.cumsum([parameter.numel() for parameter in all_of_them])[:-1])
    of_stage = {id(parameter) for parameter in parameters}
    return [
        (parameter, torch.from_numpy(part.copy()).view_as(parameter).to(parameter))
        for part, parameter in zip(parts, all_of_them, strict=True)
        if id(parameter) in of_stage
    ]


def correct(corrections: Sequence[tuple[nn.Parameter, Tensor]], rate: float) -> None:
    """Move each parameter by its correction times the learning rate."""
    with torch.no_grad():
        for parameter, correction in corrections:
            parameter.add_(correction, alpha=rate)


def pull_back(parameters: Sequence[nn.Parameter], shared: Sequence[Tensor], factor: float) -> None:
    """Add the gradient of ``factor`` / 2 times the squared distance to the shared weights."""
    for parameter, start in zip(parameters, shared, strict=True):
        pull = factor * (parameter.detach() - start)
        parameter.grad = pull if parameter.grad is None else parameter.grad + pull


def model_at(site: SiteConfig, spec: ModelSpec, vector: Vector) -> DoseModel:
    """The resident model on the site's device with the adapter ``vector`` (d,), in training mode."""
    model = resident_model(spec, site.device)
    unpack(model, vector)
    model.train()
    return model


def stage_parameters(model: DoseModel, stage: str) -> list[nn.Parameter]:
    """Return what a stage trains, in the order of the vector. InputError for stage base without a base."""
    of_base = stage == "base"
    if of_base and model.base is None:
        raise InputError("stage base: the model has no base; expected model.base=phantom")
    return [p for name, p in trainable(model).items() if name.startswith(BASE_PREFIX) == of_base]


def stage_patients(site: SiteConfig, spec: ModelSpec, model: DoseModel, stage: str) -> tuple[tuple[Any, ...], ...]:
    """Return the training patients of every stage but base; InputError if a stage learns dose and one has none."""
    form = form_of(spec)
    with loading:
        patients = training_patients(site, data_part(spec), base_weights(model))
    if stage == "dose":
        for lacking in (views[0] for views in patients if not form.has_dose(views[0])):
            raise InputError(f"site {site.site}: case {lacking.case_id} has no dose; stage dose cannot train on it")
    return patients


def stage_rows(site: SiteConfig, spec: ModelSpec) -> tuple[TrainingRows, ...]:
    """Rows of each training case that has any, for stage base; InputError where none has."""
    with loading:
        patients = tuple(rows for rows in base_rows(site, data_part(spec)) if rows is not None)
    if not patients:
        raise InputError(f"site {site.site}: no training case has targets; stage base has nothing to train on")
    return patients


def _losses(
    site: SiteConfig, spec: ModelSpec, model: DoseModel, task: TrainTask, generator: torch.Generator
) -> Iterator[Iterator[Tensor]]:
    """Yield the parts of the diffusion model's loss, step by step."""
    form, lesson = form_of(spec), Lesson(stage=task.stage, least_visible=task.least_visible)
    patients = stage_patients(site, spec, model, task.stage)
    copies = Copies.on(chosen_devices(site.device), model.network) if form.one_by_one else None
    for batch in _batches(patients, task.batch_size, generator):
        if copies is None:
            yield form.losses(model.network, batch, lesson, generator)
        else:
            yield copies.losses(form, batch, lesson, generator)


def _base_losses(
    site: SiteConfig, spec: ModelSpec, model: DoseModel, task: TrainTask, generator: torch.Generator
) -> Iterator[Iterator[Tensor]]:
    """Yield the loss of the base, step by step: ``batch_size`` patients a step."""
    base, network = base_of(spec), model.base
    assert network is not None
    patients = stage_rows(site, spec)
    while True:
        chosen = torch.randint(len(patients), (task.batch_size,), generator=generator).tolist()
        yield iter((base.loss(network, [patients[i] for i in chosen], generator),))


def score_validation(site: SiteConfig, spec: ModelSpec, vector: Vector, task: EvaluateTask) -> list[CaseScore]:
    """Score the model at ``vector`` on each of the site's validation patients, on their own grids; where the task asks
    for it, with the site's own heads, and after training on its own patients (fine-tuning after the federation), which
    changes nothing else."""
    if task.personal:
        kept = heads_memory(site, spec, task.seed, task.personal).newest()
        vector = with_heads(vector, heads(spec, task.personal), kept)
    if task.tuning is not None:
        vector = (vector + train_round(site, spec, vector, task.tuning)[0]).astype(np.float32)
    model = resident_model(spec, site.device)
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

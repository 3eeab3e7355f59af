"""The small prior: Any2Any training on phantom patients alone, so that nothing in it comes from a patient."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch

from shared_model.dit import Any2AnyDiT
from shared_model.errors import InputError
from shared_model.modalities import Example, example, mirror
from shared_model.objective import velocity_loss
from shared_model.predictor import noise_generator
from shared_model.prior import save_prior
from shared_model.spec import Architecture, ModelSpec
from simulations.phantom import STYLES, phantom_case
from simulations.settings import PretrainSettings

Progress = Callable[[str, int, int, float], None]
SHAPE = ModelSpec().shape
# The style nearest to common practice in head and neck gets half of the patients.
MAIN_STYLE = "openkbp_like"


def _phantom_examples(job: tuple[int, str]) -> tuple[Example, Example]:
    seed, style = job
    torch.set_num_threads(1)
    case = phantom_case(seed, STYLES[style], SHAPE)
    return example(case, SHAPE), example(mirror(case), SHAPE)


def phantom_examples(settings: PretrainSettings, progress: Progress) -> list[Example]:
    """``patients`` phantoms, each also mirrored; styles take turns, every second patient in the main style."""
    others = sorted(set(STYLES) - {MAIN_STYLE})
    jobs = [
        (settings.seed * 1_000_000 + i, MAIN_STYLE if i % 2 == 0 else others[i // 2 % len(others)])
        for i in range(settings.patients)
    ]
    examples: list[Example] = []
    with nullcontext() if settings.workers == 1 else ProcessPoolExecutor(settings.workers) as pool:
        pairs = map(_phantom_examples, jobs) if pool is None else pool.map(_phantom_examples, jobs, chunksize=4)
        for done, pair in enumerate(pairs, start=1):
            examples += pair
            progress("phantoms", done, len(jobs), 0.0)
    return examples


def _learning_rate(settings: PretrainSettings, step: int) -> float:
    """Linear warm-up over the first 2%, then half a cosine down to the final fraction."""
    warm = min(1.0, (step + 1) / max(1, settings.steps // 50))
    floor = settings.lr_final_fraction
    return settings.lr * warm * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / settings.steps)))


def _batches(examples: Sequence[Example], size: int, generator: torch.Generator) -> Iterator[list[Example]]:
    while True:
        chosen = torch.randint(len(examples), (size,), generator=generator)
        yield [examples[int(i)] for i in chosen]


def pretrain(settings: PretrainSettings, progress: Progress) -> str:
    """Train the prior and write it with its card to ``settings.out``; returns the hash of its weights."""
    started = time.process_time()
    torch.set_num_threads(settings.threads)
    if (settings.out / "card.json").exists():
        raise InputError(f"out={settings.out}: holds a prior; choose another folder or delete it")
    examples = phantom_examples(settings, progress)
    torch.manual_seed(settings.seed)
    model = Any2AnyDiT(Architecture())
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    generator = noise_generator(settings.seed, "pretrain")
    batches = _batches(examples, settings.batch_size, generator)
    dose_loss = 0.0
    for step in range(settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = _learning_rate(settings, step)
        stage = "dose" if float(torch.rand((), generator=generator)) < settings.dose_share else "any2any"
        loss = velocity_loss(model, next(batches), stage, generator, "bf16")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
        optimiser.step()
        if stage == "dose":
            dose_loss = loss.item() if not dose_loss else 0.98 * dose_loss + 0.02 * loss.item()
        if (step + 1) % settings.log_every == 0:
            progress("steps", step + 1, settings.steps, dose_loss)
    return save_prior(settings.out, model, _card(settings, dose_loss, time.process_time() - started))


def _card(settings: PretrainSettings, dose_loss: float, cpu_s: float) -> dict[str, object]:
    recipe = {k: v for k, v in asdict(settings).items() if not isinstance(v, Path)}
    return {
        "name": "small",
        "data": "synthetic head-and-neck phantoms of simulations/phantom.py; no patient data",
        "command": "simulate pretrain",
        "recipe": recipe,
        "final_dose_loss": round(dose_loss, 4),
        "main_process_cpu_s": round(cpu_s),
        "licence": "Apache-2.0",
    }

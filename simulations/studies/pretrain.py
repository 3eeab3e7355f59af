"""The bundled priors: Any2Any training on procedural video or on phantoms; nothing in them comes from a patient."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared_model.backbone.prior import save_prior
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, whole_file
from shared_model.diffusion.modalities import Example, example, mirror
from shared_model.diffusion.objective import velocity_loss
from shared_model.network.dit import Any2AnyDiT
from shared_model.network.seeding import noise_generator, seeded
from shared_model.network.spec import Architecture, ModelSpec
from simulations.data.video import clip_examples
from simulations.phantom.hospitals import STYLES, phantom_case
from simulations.settings.pretrain import PretrainSettings

Progress = Callable[[str, int, int, float], None]
Pair = tuple[Example, Example]
SHAPE = ModelSpec().shape
# The style nearest to common practice in head and neck gets half of the patients.
MAIN_STYLE = "openkbp_like"
CHECKPOINT, CURVE = "checkpoint.pt", "curve.csv"
SOURCES = {
    "video": "procedural video of simulations/data/video.py; no patient data",
    "video-shuffled": "procedural video of simulations/data/video.py, frames of each clip shuffled; no patient data",
    "phantom": "synthetic head-and-neck phantoms of simulations/phantom/hospitals.py; no patient data",
}


def _phantom(job: tuple[int, int]) -> Pair:
    torch.set_num_threads(1)
    index, seed = job
    others = sorted(set(STYLES) - {MAIN_STYLE})
    style = MAIN_STYLE if index % 2 == 0 else others[index // 2 % len(others)]
    case = phantom_case(seed * 1_000_000 + index, STYLES[style], SHAPE)
    return _half(example(case, SHAPE)), _half(example(mirror(case), SHAPE))


def _clip(job: tuple[int, int]) -> Pair:
    torch.set_num_threads(1)
    return clip_examples(*job, SHAPE, shuffled=False)


def _shuffled_clip(job: tuple[int, int]) -> Pair:
    torch.set_num_threads(1)
    return clip_examples(*job, SHAPE, shuffled=True)


MAKERS: dict[str, Callable[[tuple[int, int]], Pair]] = {
    "video": _clip,
    "video-shuffled": _shuffled_clip,
    "phantom": _phantom,
}


def _half(one: Example) -> Example:
    """The example in bfloat16, because thousands of examples are in memory at once."""
    return replace(one, latents={m: latents.to(torch.bfloat16) for m, latents in one.latents.items()})


def training_examples(settings: PretrainSettings, progress: Progress) -> list[Example]:
    """``settings.examples`` clips or phantoms, each also mirrored; any number of workers makes the same ones."""
    jobs = [(index, settings.seed) for index in range(settings.examples)]
    found: list[Example] = []
    with nullcontext() if settings.workers == 1 else ProcessPoolExecutor(settings.workers) as pool:
        make = MAKERS[settings.source]
        pairs = map(make, jobs) if pool is None else pool.map(make, jobs, chunksize=4)
        for done, pair in enumerate(pairs, start=1):
            found += pair
            progress("examples", done, len(jobs), 0.0)
    return found


def _learning_rate(settings: PretrainSettings, step: int) -> float:
    """Linear warm-up over the first 2%, then half a cosine down to the final fraction."""
    warm = min(1.0, (step + 1) / max(1, settings.steps // 50))
    floor = settings.lr_final_fraction
    return settings.lr * warm * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / settings.steps)))


def _batches(examples: Sequence[Example], size: int, generator: torch.Generator) -> Iterator[list[Example]]:
    while True:
        chosen = torch.randint(len(examples), (size,), generator=generator)
        yield [examples[int(i)] for i in chosen]


class Pretraining:
    """Everything that training changes: weights, optimiser, random stream, step, CPU seconds, smoothed dose loss."""

    def __init__(self, settings: PretrainSettings) -> None:
        self.settings = settings
        with seeded(settings.seed):
            self.model = Any2AnyDiT(Architecture())
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        self.generator = noise_generator(settings.seed, "pretrain")
        self.step, self.cpu_s, self.dose_loss = 0, 0.0, 0.0

    def save(self, path: Path) -> None:
        """Write the whole state, or leave the old file unchanged."""
        state = {
            "recipe": _recipe(self.settings),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "numbers": (self.step, self.cpu_s, self.dose_loss),
        }
        with whole_file(path, ORDINARY) as stream:
            torch.save(state, stream)

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint; InputError if its recipe is another."""
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if state["recipe"] != _recipe(self.settings):
            raise InputError(f"{path}: a checkpoint of another recipe; choose another out or delete it")
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        self.step, self.cpu_s, self.dose_loss = state["numbers"]

    def advance(self, batches: Iterator[list[Example]]) -> None:
        """One gradient step."""
        settings = self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = _learning_rate(settings, self.step)
        stage = "dose" if float(torch.rand((), generator=self.generator)) < settings.dose_share else "any2any"
        loss: Tensor = velocity_loss(self.model, next(batches), stage, self.generator, "bf16")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.grad_clip)
        self.optimiser.step()
        self.step += 1
        if stage == "dose":
            self.dose_loss = loss.item() if not self.dose_loss else 0.98 * self.dose_loss + 0.02 * loss.item()


def pretrain(settings: PretrainSettings, progress: Progress) -> str:
    """Train the prior and write it with its card to ``settings.out``; returns the hash of its weights.

    Every ``log_every`` steps the state is kept and a line is added to curve.csv; the same command goes on from there,
    to the same weights.
    """
    started = time.process_time()
    torch.set_num_threads(settings.threads)
    if (settings.out / "card.json").exists():
        raise InputError(f"out={settings.out}: holds a prior; choose another folder or delete it")
    settings.out.mkdir(parents=True, exist_ok=True)
    training, checkpoint = Pretraining(settings), settings.out / CHECKPOINT
    if checkpoint.is_file():
        training.resume(checkpoint)
    before = training.cpu_s - started
    batches = _batches(training_examples(settings, progress), settings.batch_size, training.generator)
    with (settings.out / CURVE).open("a", newline="") as file:
        curve = csv.writer(file, lineterminator="\n")
        if training.step == 0:
            curve.writerow(["step", "dose_loss", "cpu_s"])
        while training.step < settings.steps:
            training.advance(batches)
            if training.step % settings.log_every == 0 or training.step == settings.steps:
                training.cpu_s = before + time.process_time()
                curve.writerow([training.step, f"{training.dose_loss:.5f}", round(training.cpu_s)])
                file.flush()
                training.save(checkpoint)
                progress("steps", training.step, settings.steps, training.dose_loss)
    digest = save_prior(settings.out, training.model, _card(settings, training))
    checkpoint.unlink()
    return digest


def _recipe(settings: PretrainSettings) -> dict[str, object]:
    """Settings that decide the weights: all except the folder and the number of processes."""
    return {k: v for k, v in asdict(settings).items() if not isinstance(v, Path) and k not in ("workers", "log_every")}


def _card(settings: PretrainSettings, training: Pretraining) -> dict[str, object]:
    recipe = _recipe(settings)
    return {
        "name": settings.out.name,
        "data": SOURCES[settings.source],
        "command": "simulate pretrain " + " ".join(f"{key}={value}" for key, value in recipe.items()),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "recipe": recipe,
        "final_dose_loss": round(training.dose_loss, 4),
        "main_process_cpu_s": round(training.cpu_s),
        "licence": "Apache-2.0",
    }

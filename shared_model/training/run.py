"""A training that can stop at any moment and goes on as if it had not.

All chance comes from (seed, step): which patient, which view, which noise. So weights, their average, the optimiser's
moments and the number of the step are the whole state; a run that was killed repeats what followed its last checkpoint
to the bit, on the same machine and libraries.
"""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared_model.channels.layout import UNIT_GY
from shared_model.channels.volumes import PatientChannels
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_bytes, write_text
from shared_model.network.device import memory_named
from shared_model.network.pyramid import PyramidDiT, PyramidSpec
from shared_model.network.seeding import seeded
from shared_model.training.recipe import Recipe
from shared_model.training.step import draw, learn
from shared_model.training.together import Together

CHECKPOINT = "checkpoint.pt"
CURVE = "curve.csv"
CHECKPOINT_S = 60.0
# What may change between two legs of a run without a word: how long it is, and how it ends.
OF_A_LEG: tuple[str, ...] = ("finish", "decay")
# What never may, for the patients' order and the steps' chance come from it.
OF_THE_RUN: tuple[str, ...] = ("seed", "patients")

ALONE = Together()
Row = dict[str, float]


class Trainer:
    """The state of one training, and its steps. ``patients`` keep their order over all legs.

    ``together``: this process's device, and its share of each step's patients where several processes train. ``start``:
    the SHA-256 of the adapter that ``begin_from`` is given the weights of; empty for a random start.
    """

    def __init__(
        self,
        recipe: Recipe,
        spec: PyramidSpec,
        patients: Sequence[PatientChannels],
        precision: str = "bf16",
        together: Together = ALONE,
        start: str = "",
    ) -> None:
        if together.count > recipe.patients:
            raise InputError(
                f"{together.count} processes: a step has {recipe.patients} patients; start as many at most"
            )
        self.recipe, self.patients, self.precision, self.together = recipe, patients, precision, together
        self.start = start
        self.device = device = together.device
        with seeded(recipe.seed):
            self.network = PyramidDiT(spec).to(device)
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.99), fused=True)
        self.average = [p.detach().clone() for p in self.network.parameters()]
        self.step = 0
        self.cpu_s = 0.0
        self.curve: list[Row] = []
        # Since the last row of the curve: sum of dose errors at t = 1, and their number.
        self.errors = [0.0, 0.0]

    def begin_from(self, weights: Mapping[str, Tensor]) -> None:
        """Take these weights by name instead of the random ones, before the first step."""
        self.network.load_state_dict(weights)
        self.average = [p.detach().clone() for p in self.network.parameters()]

    @property
    def samples(self) -> int:
        """Patients seen so far, again and again."""
        return self.step * self.recipe.patients

    def advance(self) -> None:
        """One step of the optimiser."""
        recipe, began = self.recipe, time.process_time()
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.rate(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        generator = _generator(recipe.seed, "step", self.step)
        errors: list[float] = []
        for k in range(recipe.patients):
            patient = self._patient(self.samples + k)
            # Also of the other processes' patients, for chance goes on from one to the next.
            drawn = draw(patient, recipe, generator)
            if self.together.has(k):
                taught = learn(self.network, patient, drawn, recipe, self.precision)
                (taught.loss / recipe.patients).backward()
                errors += [] if taught.error is None else [float(taught.error)]
        total, count = self.together.sum_numbers([sum(errors), len(errors)])
        self.errors = [self.errors[0] + total, self.errors[1] + count]
        parameters = list(self.network.parameters())
        self.together.sum_gradients(parameters)
        # A parameter that no sample of the step used keeps its place: its moments are not moved by a zero.
        norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
        if bool(torch.isfinite(norm)):
            self.optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list[Tensor](parameters), 1 - recipe.ema_kept(self.step))
        self.step += 1
        self.cpu_s += time.process_time() - began

    def averaged(self) -> PyramidDiT:
        """A network with the averaged weights, in evaluation."""
        with seeded(self.recipe.seed):
            network = PyramidDiT(self.network.spec).to(self.device)
        with torch.no_grad():
            for parameter, mean in zip(network.parameters(), self.average, strict=True):
                parameter.copy_(mean)
        return network.eval()

    def record(self, scores: Mapping[str, float]) -> Row:
        """A row of the curve: samples, CPU minutes, training error at t = 1 (Gy at 70 Gy), rate, and ``scores``."""
        total, count = self.errors
        row = {
            "samples": float(self.samples),
            "cpu_min": round(self.cpu_s / 60, 2),
            "train_gy": round(total / count * UNIT_GY, 4) if count else math.nan,
            "rate": self.recipe.rate(self.step),
            **scores,
        }
        self.curve.append(row)
        self.errors = [0.0, 0.0]
        return row

    def _patient(self, sample: int) -> PatientChannels:
        """Every patient once in each round, in an order of its own."""
        round_, place = divmod(sample, len(self.patients))
        order = torch.randperm(len(self.patients), generator=_generator(self.recipe.seed, "round", round_))
        return self.patients[int(order[place])]

    def save(self, folder: Path) -> None:
        """Write the checkpoint and the curve, each whole or not at all."""
        state = {
            "recipe": asdict(self.recipe),
            "spec": asdict(self.network.spec),
            "patients": [p.case_id for p in self.patients],
            "start": self.start,
            "network": self.network.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "cpu_s": self.cpu_s,
            "curve": self.curve,
            "errors": self.errors,
        }
        content = io.BytesIO()
        torch.save(state, content)
        write_bytes(folder / CHECKPOINT, content.getbuffer(), mode=ORDINARY)
        write_text(folder / CURVE, _csv(self.curve), mode=ORDINARY)

    def load(self, folder: Path, changed: bool = False) -> bool:
        """Go on from the checkpoint in ``folder``; False if there is none. InputError if it is of another run.

        ``changed``: the recipe may be another one from here on (stronger views after over-fitting, say).
        """
        path = folder / CHECKPOINT
        if not path.is_file():
            return False
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        here = {"recipe": asdict(self.recipe), "spec": asdict(self.network.spec)}
        for part, values in here.items():
            for key, value in values.items():
                free = part == "recipe" and (key in OF_A_LEG or (changed and key not in OF_THE_RUN))
                if not free and state[part].get(key) != value:
                    raise InputError(
                        f"{path}: {key}={state[part].get(key)!r} there, here {value!r}; choose another out"
                    )
        if state["patients"] != [p.case_id for p in self.patients]:
            raise InputError(f"{path}: was trained on other patients; choose another out")
        if state.get("start", "") != self.start:
            raise InputError(f"{path}: began from other weights (start); choose another out")
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average = [mean.to(self.device) for mean in state["average"]]
        self.step, self.cpu_s, self.curve, self.errors = (state[k] for k in ("step", "cpu_s", "curve", "errors"))
        return True


def run(
    trainer: Trainer,
    folder: Path,
    *,
    samples: int,
    every: int,
    validate: Callable[[Trainer], Mapping[str, float]],
    told: Callable[[Trainer, Row | None], None] = lambda trainer, row: None,
    export: Callable[[Trainer], None] = lambda trainer: None,
    hours: float = math.inf,
    changed: bool = False,
) -> None:
    """Train until ``samples`` are seen or ``hours`` have passed, from the checkpoint in ``folder`` if there is one.

    Every ``every`` samples ``validate`` scores the averaged weights; about each minute the state is written. ``told``
    hears of every step, with a row where one was made; ``export`` follows each row. ``changed``: see Trainer.load. Of
    several processes the first alone scores, writes and tells. InputError where the device's memory does not do; the
    last checkpoint stays.
    """
    together = trainer.together
    folder.mkdir(parents=True, exist_ok=True)
    trainer.load(folder, changed)
    began = saved = time.monotonic()
    while trainer.samples < samples and together.agree(time.monotonic() - began < hours * 3600):
        with memory_named(trainer.device, "training on one patient"):
            trainer.advance()
        if not together.leads:
            continue
        row = None
        if trainer.samples // every > (trainer.samples - trainer.recipe.patients) // every:
            with memory_named(trainer.device, "scoring the validation patients"):
                row = trainer.record(validate(trainer))
        if row is not None:
            export(trainer)
        if row is not None or time.monotonic() - saved > CHECKPOINT_S:
            trainer.save(folder)
            saved = time.monotonic()
        told(trainer, row)
    if together.leads:
        trainer.save(folder)


def _generator(seed: int, kind: str, number: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {kind} {number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _csv(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(key for row in rows for key in row))
    lines = [",".join(names)]
    lines += [",".join(f"{row[name]:.6g}" if name in row else "" for name in names) for row in rows]
    return "\n".join(lines) + "\n"


def tensors(trainer: Trainer) -> dict[str, Tensor]:
    """The averaged weights by name."""
    return {name: mean for (name, _), mean in zip(trainer.network.named_parameters(), trainer.average, strict=True)}

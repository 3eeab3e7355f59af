"""`client predict`: an adapter's dose of one case, or the reason for a refusal.

Prior and shared adapter come from one file; ``build`` puts the site's private weights over the model. A case on finer
voxels than the training patients' is predicted at their voxel size and resampled back, because the model's features
count voxels (docs/decisions/0041-predict-at-training-voxels.md).
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from client.prediction.preferred import Preference, Preferred, preferred
from shared_model.adapter.envelope import Envelope
from shared_model.adapter.manifest import load_adapter, unpack, vector_hash
from shared_model.adapter.shared import adapted_model
from shared_model.base.model import DoseModel
from shared_model.bundled import DEFAULT_ADAPTER
from shared_model.core.errors import InputError
from shared_model.core.vector import Vector
from shared_model.network.device import chosen_device, memory_named
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case, Volume
from shared_model.prediction.predictor import predict_dose, predict_merged
from shared_model.prediction.regrid import Counts, coarsen, refine

# Makes a model from a shared adapter, perhaps with the site's private weights over it. Takes specification and vector,
# returns the model and its specification. Raises InputError if the two adapters do not fit.
Build = Callable[[ModelSpec, Vector], tuple[DoseModel, ModelSpec]]
MAX_SAMPLES = 64


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """How a dose is drawn: the mean of ``samples`` of ``steps`` each; ``preference``: how it is then moved.

    One sample of one step is the network's mean. ``twice``: average two predictions (predictor.predict_merged).
    """

    samples: int = 1
    steps: int = 1
    seed: int = 0
    twice: bool = True
    preference: Preference | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= MAX_SAMPLES:
            raise InputError(f"{self.samples} samples: expected 1 to {MAX_SAMPLES}")
        if not 1 <= self.steps <= 1000:
            raise InputError(f"--steps {self.steps}: expected 1 to 1000")


@dataclass(frozen=True, kw_only=True)
class PredictedDose:
    """A predicted dose (z, y, x) Gy on the case's grid. How far its samples lie apart is kept nowhere: it is no
    uncertainty (docs/results/backbone.md).

    ``notes``: what is near the edge of the training data, or was assumed. ``peak_mb``: the process's peak memory.
    """

    case: Case = field(repr=False)
    dose_gy: Volume = field(repr=False)
    scores: tuple[float, ...]
    how: Sampled
    factors: tuple[int, int, int]
    notes: tuple[str, ...]
    seconds: float
    peak_mb: float


def build_shared(spec: ModelSpec, vector: Vector) -> tuple[DoseModel, ModelSpec]:
    """Make the model of a shared adapter as it is."""
    model = adapted_model(spec)
    unpack(model, vector)
    return model, spec


class Predictor:
    """One adapter, loaded once. ``name``: the start of its SHA-256. ``card``: its model card (empty without one)."""

    def __init__(self, adapter: Path = DEFAULT_ADAPTER, build: Build = build_shared, device: str = "auto") -> None:
        """``device``: a word of network/device.py.

        Raises InputError where the adapter cannot be read or belongs to another prior, or the device is not there.
        """
        if not adapter.is_file():
            raise InputError(f"--adapter {adapter}: no such file; expected a .safetensors that a run wrote")
        spec, vector, self.card = load_adapter(adapter)
        self.name = vector_hash(vector)[:12]
        self.model, self.spec = build(spec, vector)
        self.device = chosen_device(device)
        self.model.to(self.device).eval()
        self.envelope, self._stand_in = _envelope(self.card)

    def predict(self, case: Case, how: Sampled, notes: Sequence[str] = ()) -> PredictedDose:
        """Predict the dose of ``case`` without reading its own dose. ``notes`` on how it was read come first.

        Raises InputError for a case far outside the training data.
        """
        started = time.monotonic()
        factors = self.envelope.factors(case)
        asked = coarsen(case, factors)
        told = [*notes, *self._stand_in, *self._judge(asked), *_coarse_notes(case, factors)]
        if how.preference is None:
            dose = self._mean(case, factors, how)
            scores: tuple[float, ...] = ()
        else:
            chosen = self._preferred(asked, how, how.preference)
            dose, scores, told = refine(chosen.dose_gy, asked, case), chosen.scores, [*told, *chosen.notes]
        return PredictedDose(
            case=case,
            dose_gy=_array(dose),
            scores=scores,
            how=how,
            factors=factors,
            notes=tuple(told),
            seconds=time.monotonic() - started,
            peak_mb=peak_mb(),
        )

    @torch.no_grad()
    def _mean(self, case: Case, factors: Counts, how: Sampled) -> Tensor:
        with memory_named(self.device, "predicting a dose"):
            return predict_merged(
                self.model,
                case,
                self.spec,
                factors,
                steps=how.steps,
                candidates=how.samples,
                seed=how.seed,
                twice=how.twice,
            )

    def _preferred(self, asked: Case, how: Sampled, preference: Preference) -> Preferred:
        """Moved as one plan on one grid: what a scorecard prefers on two grids need not be one plan."""
        with torch.no_grad(), memory_named(self.device, "predicting a dose"):
            dose = predict_dose(
                self.model,
                asked,
                self.spec,
                steps=how.steps,
                candidates=how.samples,
                seed=how.seed,
                flips=how.twice,
            )
        return preferred(asked, dose, preference, self.spec.body_site, how.seed)

    def _judge(self, case: Case) -> tuple[str, ...]:
        verdict = self.envelope.judge(case)
        if verdict.refusals:
            raise InputError(f"case {case.case_id}: far outside this adapter's training: {'; '.join(verdict.refusals)}")
        return verdict.notes


def _envelope(card: Mapping[str, Any]) -> tuple[Envelope, list[str]]:
    """Return the adapter's training ranges, or else the bundled adapter's, and a note if they are the bundled ones."""
    own = Envelope.from_card(card)
    if own is not None:
        return own, []
    note = "the adapter's model card names no training ranges: checked against the bundled adapter's"
    return Envelope.of_bundled(), [note]


def _coarse_notes(case: Case, factors: tuple[int, int, int]) -> list[str]:
    if factors == (1, 1, 1):
        return []
    voxels = " x ".join(f"{s * k:.3g}" for s, k in zip(case.grid.spacing_mm, factors, strict=True))
    return [f"predicted on voxels of {voxels} mm (z, y, x), the training patients' size, and resampled back"]


def _array(dose: torch.Tensor) -> Volume:
    return np.ascontiguousarray(dose.numpy(), dtype=np.float32)


def peak_mb() -> float:
    """Return this process's peak memory in 10^6 bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6

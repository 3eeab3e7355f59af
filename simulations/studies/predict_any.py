"""The remaining-1 table (`simulate evaluate targets=all`): each modality predicted from all the others of a patient.

The pyramid is scored on the patient's own voxels, organ by organ. The transformer is scored on the training grid, where
every modality is what that model can represent at best. What is a mask is scored by Dice, what is a field by mean
absolute error inside the body. A mask of the transformer is a value above half of the least value inside it: half of
the lowest prescription for ``ptv``, the nearest organ code for ``oar``, one half for ``body``. Codes are averaged over
a voxel, so at its border an organ can pass for one of lower code, in the reference as in the prediction: these are
overlaps of the modality as that model sees it, not of contours.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from client.data.encoded import encoded
from client.data.load import load_split
from client.site.config import SiteConfig
from shared_model.adapter.manifest import unpack
from shared_model.adapter.shared import adapted_model
from shared_model.backbone.prior import load_latents
from shared_model.base.model import base_gy
from shared_model.channels.layout import SCALE, TARGET_CHANNELS
from shared_model.channels.volumes import HU_UNIT, PatientChannels
from shared_model.core.vector import Vector
from shared_model.diffusion.latents import Latents
from shared_model.diffusion.modalities import Example, scale_of, volumes
from shared_model.forms.interface import Drawing, form_of
from shared_model.forms.volume_sampling import in_box
from shared_model.network.device import chosen_device
from shared_model.network.spec import ModelSpec
from shared_model.patient.anatomy import OAR_CODES, OAR_NAMES
from shared_model.patient.case import MODALITIES, Case, Volume

UNITS: Mapping[str, str] = {"dose": "Gy", "ct": "HU", "beam": "plate value", "angle": "plate value"}
# (modality, structure or whole, measure) -> one value for each patient.
Scores = dict[tuple[str, str, str], list[float]]


def dice(a: Tensor, b: Tensor) -> float:
    """2 |a and b| / (|a| + |b|) of two masks; 1 where both are empty."""
    total = int(a.sum() + b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def score_any(
    sites: Sequence[SiteConfig],
    spec: ModelSpec,
    vector: Vector,
    how: Drawing,
    *,
    candidates: int,
    seed: int,
    device: str = "cpu",
    scored: Callable[[int], None] = lambda patients: None,
) -> Scores:
    """Scores of the model at ``vector`` on the sites' validation patients; mean of ``candidates`` samples."""
    model = adapted_model(spec)
    unpack(model, vector)
    model.to(chosen_device(device)).eval()
    form = form_of(spec)
    found: Scores = {}
    for site in sites:
        for case in load_split(site, "validation"):
            base = base_gy(case, spec, model)
            patient = encoded(case, spec, site.cache, base)

            def draw(target: str, patient: Any = patient) -> Tensor:
                drawn = form.draw(model.network, patient, how, candidates=candidates, seed=seed, target=target)
                return drawn.mean(0)

            of_case = _of_volumes(patient, case, draw) if spec.network == "pyramid" else _of_latents(
                patient, case, base, load_latents(spec), draw
            )  # fmt: skip
            for key, value in of_case:
                found.setdefault(key, []).append(value)
            scored(1)
    return found


def _of_latents(
    patient: Example, case: Case, base: Volume | None, latents: Latents, draw: Callable[[str], Tensor]
) -> Iterable[tuple[tuple[str, str, str], float]]:
    for target in (m for m in MODALITIES if m in patient.latents):
        offset, unit = scale_of(target, latents, residual=base is not None)
        predicted = draw(target) * unit + offset
        if base is not None and target == "dose":
            predicted += volumes(replace(case, dose_gy=base), patient.grid)["dose"]
        for key, value in score_modality(target, predicted, case, patient):
            yield (target, *key), value


def _of_volumes(
    patient: PatientChannels, case: Case, draw: Callable[[str], Tensor]
) -> Iterable[tuple[tuple[str, str, str], float]]:
    """On the patient's own voxels, in the box of the body."""
    body = channel(patient, "body") > 0.5
    for target in (m for m in MODALITIES if m in patient.present):
        offset, unit = SCALE[target]
        predicted = in_box(draw(target), patient) * unit + offset
        if target == "oar":
            for name, mask in zip(OAR_NAMES, predicted > 0.5, strict=True):
                if case.structures.get(name, body.numpy() & False).any():
                    yield (target, name, "Dice"), dice(mask, channel(patient, f"is_{name}") > 0.5)
        elif target == "body":
            yield (target, "body", "Dice"), dice(predicted[0] > 0.5, body)
        elif target == "ptv":
            least = min(case.prescriptions_gy.values()) / max(case.prescriptions_gy.values()) / 2
            yield (target, "targets", "Dice"), dice(predicted[0] > least, channel(patient, "prescription") > least)
        else:
            per_unit = {"dose": patient.unit_gy, "ct": HU_UNIT}.get(target, 1.0)
            error = (predicted[0] - channel(patient, TARGET_CHANNELS[target][0])) * per_unit
            yield (target, target, f"MAE ({UNITS[target]})"), float(error[body].abs().mean())


def channel(patient: PatientChannels, name: str) -> Tensor:
    """One named channel on the patient's box, (z, y, x) float32."""
    return torch.from_numpy(np.asarray(patient.stack[..., patient.layout.index(name)], dtype=np.float32))


def score_modality(
    target: str, predicted_zyx: Tensor, case: Case, patient: Example
) -> Iterable[tuple[tuple[str, str], float]]:
    """((what, measure), value) of one predicted modality in natural units on the patient's training grid."""
    reference = volumes(case, patient.grid)
    body = reference["body"] > 0.5
    if target == "body":
        yield ("body", "Dice"), dice(predicted_zyx > 0.5, body)
    elif target == "ptv":
        least = min(case.prescriptions_gy.values()) / 2
        yield ("targets", "Dice"), dice(predicted_zyx > least, reference["ptv"] > least)
    elif target == "oar":
        for name in (n for n in OAR_CODES if n in case.structures):
            mask = reference["oar"].round() == OAR_CODES[name]
            if mask.any():
                yield (name, "Dice"), dice(predicted_zyx.round() == OAR_CODES[name], mask)
    else:
        error = (predicted_zyx.clamp_min(0.0) if target == "dose" else predicted_zyx) - reference[target]
        yield (target, f"MAE ({UNITS[target]})"), float(error[body].abs().mean())


def any_csv(scores: Scores) -> str:
    """One line per modality, structure and measure: patients, mean, standard deviation."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["target", "of", "measure", "patients", "mean", "sd"])
    writer.writerows([*key, n, f"{mean:.4f}", f"{sd:.4f}"] for key, n, mean, sd in _rows(scores))
    return text.getvalue()


def any_table(scores: Scores) -> str:
    """The remaining-1 table in Markdown."""
    lines = ["| predicted | of | measure | patients | mean | sd |", "|---|---|---|---:|---:|---:|"]
    for (target, of, measure), n, mean, sd in _rows(scores):
        lines.append(f"| {target} | {of} | {measure} | {n} | {mean:.3f} | {sd:.3f} |")
    return "\n".join(lines) + "\n"


def _rows(scores: Scores) -> Iterable[tuple[tuple[str, str, str], int, float, float]]:
    for key, values in sorted(scores.items(), key=lambda item: MODALITIES.index(item[0][0])):
        of = torch.tensor(values, dtype=torch.float64)
        yield key, len(values), float(of.mean()), float(of.std()) if len(values) > 1 else 0.0

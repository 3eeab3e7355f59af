"""The remaining-1 table (`simulate evaluate targets=all`): each modality predicted from all the others of a patient.

Scored on the training grid, where every modality is what the model can represent at best: Dice for what is a mask, mean
absolute error inside the body for what is a field. A mask is a value above half of the least value inside it: half of
the lowest prescription for ``ptv``, the nearest organ code for ``oar``, one half for ``body``. Codes are averaged
over a voxel, so at its border an organ can pass for one of lower code, in the reference as in the prediction: these are
overlaps of the modality as the model sees it, not of contours.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from client.data.latent_cache import encode_case
from client.data.load import load_split
from client.site.config import SiteConfig
from shared_model.adapter.manifest import unpack
from shared_model.adapter.shared import adapted_model
from shared_model.backbone.prior import load_latents
from shared_model.base.model import base_gy
from shared_model.core.vector import Vector
from shared_model.diffusion.modalities import Example, scale_of, volumes
from shared_model.forms.interface import Drawing
from shared_model.forms.latents import LatentForm
from shared_model.network.spec import ModelSpec
from shared_model.patient.anatomy import OAR_CODES
from shared_model.patient.case import MODALITIES, Case

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
    scored: Callable[[int], None] = lambda patients: None,
) -> Scores:
    """Scores of the model at ``vector`` on the sites' validation patients; mean of ``candidates`` samples."""
    model = adapted_model(spec)
    unpack(model, vector)
    model.eval()
    form, latents = LatentForm(spec), load_latents(spec)
    found: Scores = {}
    for site in sites:
        for case in load_split(site, "validation"):
            base = base_gy(case, spec, model)
            patient = encode_case(case, spec, site.cache, base)
            for target in (m for m in MODALITIES if m in patient.latents):
                drawn = form.draw(model.network, patient, how, candidates=candidates, seed=seed, target=target)
                offset, unit = scale_of(target, latents, residual=base is not None)
                predicted = drawn.mean(0) * unit + offset
                if base is not None and target == "dose":
                    predicted += volumes(replace(case, dose_gy=base), patient.grid)["dose"]
                for key, value in score_modality(target, predicted, case, patient):
                    found.setdefault((target, *key), []).append(value)
            scored(1)
    return found


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

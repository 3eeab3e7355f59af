"""`simulate evaluate`: score one adapter on one cohort."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from client.data.encoded import encoded
from client.site.config import SiteConfig
from shared_model.adapter.manifest import load_adapter, unpack, vector_hash
from shared_model.adapter.shared import adapted_model
from shared_model.backbone.prior import use_prior_file
from shared_model.base.model import DoseModel, base_gy
from shared_model.bundled import DEFAULT_ADAPTER
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_text
from shared_model.forms.interface import Drawing
from shared_model.network.device import chosen_device
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case
from shared_model.prediction.predictor import predict_dose, predict_merged
from shared_model.scoring.dosimetry import summarise
from simulations.data.datasets import evaluation_sites
from simulations.reports.scoring import by_ct, native_site, overall, patients_csv, score_predictions, study_summary
from simulations.reports.tables import write_json
from simulations.settings.commands import EvaluateSettings
from simulations.studies.predict_any import any_csv, any_table, score_any

# What can be withheld from the model, and the Case's field of it.
WITHHOLDS: Mapping[str, str] = {"ct": "ct_hu", "oar": "structures", "beam": "beam_plate", "angle": "angle_plate"}


def evaluate_adapter(settings: EvaluateSettings, bars: Progress) -> str:
    """Score and write ``out/summary.json`` (key ``metrics``) and ``out/patients.csv``; returns lines for the screen."""
    started = time.monotonic()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    use_prior_file(settings.prior_path)
    path = DEFAULT_ADAPTER if settings.adapter == "default" else Path(settings.adapter)
    if not path.is_file():
        raise InputError(f"adapter={settings.adapter}: no such file; give a .safetensors that a run wrote, or default")
    if (settings.out / "studies").exists():
        raise InputError(f"out={settings.out}: holds a run, whose summary would be overwritten; choose another")
    spec, vector, card = load_adapter(path)
    settings.data.check_body_site(spec.body_site)
    sites = evaluation_sites(settings.data, settings.split, settings.out, settings.seed)
    sites = [replace(site, cache=settings.out / "cache") for site in sites]
    patients = sum(len(site.validation) for site in sites)
    bar = bars.add_task("scoring patients", total=patients, note="")
    predict, lacking = _predictor(settings, spec, vector), set[str]()

    def noting(site: SiteConfig, case: Case) -> Tensor:
        if case.ct_hu is None:
            lacking.add(case.case_id)
        return predict(site, case)

    fine = native_site(settings.data, sites)
    refined = _refined(settings, spec, vector)
    scores, native = score_predictions(sites, noting, fine, lambda n: bars.advance(bar, n), refined)
    summary: dict[str, Any] = {
        "adapter": settings.adapter,
        "adapter_sha256": vector_hash(vector),
        "card": card,
        "split": settings.split,
        "seed": settings.seed,
        "sampler_steps": settings.sampler_steps,
        "candidates": settings.candidates,
        "flips": settings.flips,
        "without": list(settings.without),
        "part": settings.part,
        "model": model_record(settings, spec),
        "wall_s": round(time.monotonic() - started, 1),
        "metrics": overall(scores),
        "per_site": study_summary(scores)["per_site"],
        # At OpenKBP's own resolution, for the patients whose data has it.
        **({"native": summarise(list(native.values()))} if native else {}),
        **by_ct(scores, native, lacking),
    }
    write_json(settings.out / "summary.json", summary)
    write_text(settings.out / "patients.csv", patients_csv({settings.split: scores}), mode=ORDINARY)
    screen = _screen(settings, sites, summary)
    if settings.targets == "all":
        bar = bars.add_task("every modality", total=patients, note="")
        how = Drawing(steps=settings.sampler_steps)
        found = score_any(
            sites, spec, vector, how, candidates=settings.candidates, seed=settings.seed, device=settings.device,
            scored=lambda n: bars.advance(bar, n),
        )  # fmt: skip
        write_text(settings.out / "predict_any.md", any_table(found), mode=ORDINARY)
        write_text(settings.out / "predict_any.csv", any_csv(found), mode=ORDINARY)
        screen = f"{any_table(found)}\n{screen}"
    return screen


def withheld(case: Case, without: Sequence[str]) -> Case:
    """The case as a site has it that lacks some modalities."""
    changes: dict[str, Any] = {WITHHOLDS[name]: None for name in without if name != "oar"}
    if "oar" in without:
        changes["structures"] = {name: case.structures[name] for name in case.targets}
    return replace(case, **changes)


def model_record(settings: EvaluateSettings, spec: ModelSpec) -> dict[str, Any]:
    """What made the dose: ``kind`` diffusion or base, its network, ``parameters`` in all, and sampling ``steps``."""
    model = adapted_model(spec)
    if spec.base_alone or settings.part == "base":
        of_base = [] if model.base is None else list(model.base.parameters())
        return {"kind": "base", "network": spec.base, "parameters": sum(p.numel() for p in of_base), "steps": 0}
    parameters = sum(p.numel() for _, p in model.stored_parameters())
    return {
        "kind": "diffusion", "network": spec.network, "parameters": parameters, "steps": settings.sampler_steps
    }  # fmt: skip


def _predictor(
    settings: EvaluateSettings, spec: ModelSpec, vector: NDArray[np.float32]
) -> Callable[[SiteConfig, Case], Tensor]:
    """Predictor of a case's dose (z, y, x) in Gy: the adapter's, or with ``part=base`` only its base's."""
    model = _model(settings, spec, vector)
    if settings.part == "base" and not spec.has_base:
        raise InputError("part=base: this adapter has no base (model.base=none); expected part=whole")

    def predict(site: SiteConfig, whole: Case) -> Tensor:
        case = withheld(whole, settings.without)
        base = base_gy(case, spec, model)
        if settings.part == "base" and base is not None:
            return torch.from_numpy(base)
        return predict_dose(
            model,
            case,
            spec,
            steps=settings.sampler_steps,
            candidates=settings.candidates,
            seed=settings.seed,
            flips=settings.flips,
            patient=encoded(case, spec, site.cache, base),
            base=base,
        )

    return predict


def _model(settings: EvaluateSettings, spec: ModelSpec, vector: NDArray[np.float32]) -> DoseModel:
    model = adapted_model(spec)
    unpack(model, vector)
    model.to(chosen_device(settings.device)).eval()
    return model


def _refined(
    settings: EvaluateSettings, spec: ModelSpec, vector: NDArray[np.float32]
) -> Callable[[Tensor, Case, Case], Tensor] | None:
    """How `client predict` predicts a case on finer voxels; None where it would do no more than bring the dose back."""
    if not settings.flips or settings.part == "base":
        return None
    model = _model(settings, spec, vector)

    def predict(dose: Tensor, coarse: Case, full: Case) -> Tensor:
        merged = [round(a / b) for a, b in zip(coarse.grid.spacing_mm, full.grid.spacing_mm, strict=True)]
        with torch.no_grad():
            return predict_merged(
                model,
                withheld(full, settings.without),
                spec,
                (merged[0], merged[1], merged[2]),
                steps=settings.sampler_steps,
                candidates=settings.candidates,
                seed=settings.seed,
            )

    return predict


def _screen(settings: EvaluateSettings, sites: list[SiteConfig], summary: dict[str, Any]) -> str:
    metrics = summary["metrics"]
    numbers = ", ".join(f"{key} {value:.2f}" for key, value in metrics.items() if key != "patients")
    if fine := summary.get("native"):
        numbers += f"\n{int(fine['patients'])} of them at native resolution: {_both(fine)}"
    for name in ("with_ct", "without_ct"):
        if part := summary.get(name):
            fine = f"; native {_both(part['native'])}" if "native" in part else ""
            numbers += f"\n{int(part['metrics']['patients'])} {name.replace('_', ' ')}: {_both(part['metrics'])}{fine}"
    return (
        f"{int(metrics['patients'])} patients, {settings.split}: {numbers}\nsummary   {settings.out / 'summary.json'}"
    )


def _both(scores: Mapping[str, float]) -> str:
    return f"dose_score_gy {scores['dose_score_gy']:.2f}, dvh_score_gy {scores['dvh_score_gy']:.2f}"

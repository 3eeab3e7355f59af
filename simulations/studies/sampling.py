"""`simulate sampling`: one step against several, and the spread of candidates against their error, organ by organ.

For each number of steps: OpenKBP's scores of single candidates (their mean over candidates) and of the candidates'
mean, and seconds a candidate. For each structure: the standard deviation over candidates of its mean dose (root of the
mean variance over patients) beside the root mean square error of the mean candidate. A spread that is an uncertainty
has a ratio near 1.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from client.data.encoded import encoded
from client.data.load import load_case
from shared_model.adapter.manifest import load_adapter, unpack, vector_hash
from shared_model.adapter.shared import adapted_model
from shared_model.base.model import base_gy
from shared_model.bundled import DEFAULT_ADAPTER
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_text
from shared_model.forms.interface import Drawing, form_of
from shared_model.network.device import chosen_device
from shared_model.patient.anatomy import is_target
from shared_model.patient.case import Case
from shared_model.scoring.dosimetry import CaseScore, score_candidates, score_case, summarise
from simulations.data.datasets import evaluation_sites
from simulations.reports.tables import write_json
from simulations.settings.commands import SPLITS, DataSettings, data_settings
from simulations.settings.composition import check_device, check_range, compose_values, path, several

# A spread within these bounds of the error may be shown as uncertainty.
CALIBRATED = (0.7, 1.4)
ALL_OARS = "organs together"


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """See simulations/conf/sampling.yaml."""

    adapter: str
    split: str
    out: Path
    seed: int
    threads: int
    device: str
    steps: tuple[int, ...]
    candidates: int
    patients: int
    flips: bool
    data: DataSettings

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise InputError(f"split={self.split!r}: expected one of {', '.join(SPLITS)}")
        if not self.steps:
            raise InputError("steps=[]: expected numbers of steps such as [1, 4, 10]")
        for steps in self.steps:
            check_range("steps", steps, 1, 1000)
        for key, low, high in (("candidates", 2, 64), ("patients", 0, 10**6), ("threads", 0, 256)):
            check_range(key, getattr(self, key), low, high)
        check_range("seed", self.seed, 0, 2**63 - 1)
        check_device(self.device)
        if not isinstance(self.flips, bool):
            raise InputError(f"flips={self.flips!r}: expected true or false")


def sampling_settings(overrides: Sequence[str]) -> SamplingSettings:
    """Compose and check the settings."""
    raw, _ = compose_values("sampling", overrides)
    named = {key: raw[key] for key in ("split", "seed", "threads", "device", "candidates", "patients", "flips")}
    return SamplingSettings(
        adapter=str(path(raw["adapter"], "adapter")),
        out=path(raw["out"], "out"),
        steps=several(raw, "steps"),
        data=data_settings(raw),
        **named,
    )


@dataclass(frozen=True, kw_only=True)
class Found:
    """Of one number of steps: scores of every candidate and of the mean, seconds a candidate, and structures' doses.

    ``structures``: name -> one row a patient, (mean dose of each candidate..., reference), Gy.
    """

    single: list[CaseScore]
    mean: list[CaseScore]
    seconds: list[float]
    structures: dict[str, list[list[float]]]


def compare_steps(settings: SamplingSettings, bars: Progress) -> str:
    """Draw, score, write ``summary.json`` and ``sampling.md`` to ``settings.out``; returns the tables."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    file = DEFAULT_ADAPTER if settings.adapter == "default" else Path(settings.adapter)
    if not file.is_file():
        raise InputError(f"adapter={settings.adapter}: no such file; give a .safetensors that a run wrote, or default")
    spec, vector, _ = load_adapter(file)
    settings.data.check_body_site(spec.body_site)
    model = adapted_model(spec)
    unpack(model, vector)
    model.to(chosen_device(settings.device)).eval()
    form = form_of(spec)
    sites = evaluation_sites(settings.data, settings.split, settings.out, settings.seed)
    listed = [(site, case_id) for site in sites for case_id in site.validation][: settings.patients or None]
    bar = bars.add_task("patients", total=len(listed), note="")
    found = {steps: Found(single=[], mean=[], seconds=[], structures={}) for steps in settings.steps}
    for site, case_id in listed:
        case = load_case(site, case_id)
        base = base_gy(case, spec, model)
        patient = encoded(case, spec, settings.out / "cache", base)
        for steps, of in found.items():
            count = 1 if steps == 1 and form.mean_in_one_step else settings.candidates
            started = time.process_time()
            drawn = form.draw(
                model.network, patient, Drawing(steps=steps, flips=settings.flips), candidates=count, seed=settings.seed
            )
            of.seconds.append((time.process_time() - started) / count)
            _score(of, case, form.in_gy(drawn, patient, case, base))
        bars.advance(bar)
    summary: dict[str, Any] = {
        "adapter_sha256": vector_hash(vector), "split": settings.split, "seed": settings.seed,
        "patients": len(listed), "candidates": settings.candidates, "flips": settings.flips,
        "steps": {str(steps): _row(of) for steps, of in found.items()},
        "spread": {str(steps): spread(of.structures) for steps, of in found.items() if len(of.single) > len(of.mean)},
    }  # fmt: skip
    write_json(settings.out / "summary.json", summary)
    text = tables(summary)
    write_text(settings.out / "sampling.md", text, mode=ORDINARY)
    return text


def _score(of: Found, case: Case, doses_kzyx: Tensor) -> None:
    of.single.extend(score_candidates(case, doses_kzyx))
    of.mean.append(score_case(case, doses_kzyx.mean(0)))
    if case.dose_gy is None:
        return
    everything = np.concatenate([doses_kzyx.numpy(), case.dose_gy[None]])
    for name, mask in case.structures.items():
        if (inside := mask & case.body).any():
            of.structures.setdefault(name, []).append([float(one[inside].mean()) for one in everything])


def _row(of: Found) -> dict[str, float]:
    single, mean = summarise(of.single), summarise(of.mean)
    return {
        "dose_single": single["dose_score_gy"], "dvh_single": single["dvh_score_gy"],
        "dose_mean": mean["dose_score_gy"], "dvh_mean": mean["dvh_score_gy"],
        "cpu_s": float(np.mean(of.seconds)),
    }  # fmt: skip


def spread(structures: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, dict[str, float]]:
    """Structure -> patients, ``sd`` over candidates of its mean dose, ``rms`` error of the mean candidate, their ratio.

    Each row of a structure is one patient's: mean dose of each candidate, then of the reference, Gy.
    """
    out: dict[str, dict[str, float]] = {}
    pooled: list[tuple[float, float]] = []
    for name in sorted(structures):
        rows = np.array(structures[name])
        variance = rows[:, :-1].var(axis=1, ddof=1)
        squares = (rows[:, :-1].mean(axis=1) - rows[:, -1]) ** 2
        if not is_target(name):
            pooled.extend(zip(variance, squares, strict=True))
        out[name] = _spread_row(variance, squares)
    if pooled:
        both = np.array(pooled)
        out[ALL_OARS] = _spread_row(both[:, 0], both[:, 1])
    return out


def _spread_row(variance: np.ndarray[Any, Any], squares: np.ndarray[Any, Any]) -> dict[str, float]:
    sd, rms = float(np.sqrt(variance.mean())), float(np.sqrt(squares.mean()))
    return {"patients": len(variance), "sd": sd, "rms": rms, "ratio": sd / rms if rms else float("nan")}


def tables(summary: Mapping[str, Any]) -> str:
    """Both tables in Markdown."""
    lines = [
        "| steps | dose score, single (Gy) | DVH score, single | dose score, mean | DVH score, mean | CPU-s each |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for steps, row in summary["steps"].items():
        lines.append(
            f"| {steps} | {row['dose_single']:.2f} | {row['dvh_single']:.2f} | {row['dose_mean']:.2f} | "
            f"{row['dvh_mean']:.2f} | {row['cpu_s']:.2f} |"
        )
    for steps, of in summary["spread"].items():
        lines += ["", f"{steps} steps, mean dose of structures (Gy):", ""]
        lines += ["| structure | patients | sd over candidates | rms error | ratio |", "|---|---:|---:|---:|---:|"]
        for name, row in of.items():
            lines.append(f"| {name} | {row['patients']} | {row['sd']:.2f} | {row['rms']:.2f} | {row['ratio']:.2f} |")
        low, high = CALIBRATED
        ratio = of[ALL_OARS]["ratio"] if ALL_OARS in of else float("nan")
        words = "may" if low <= ratio <= high else "may not"
        lines += ["", f"The spread {words} be shown as uncertainty (expected {low} to {high} for {ALL_OARS})."]
    return "\n".join(lines) + "\n"

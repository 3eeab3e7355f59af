"""`simulate fine`: train the second stage on a cohort's training patients, from the dose that an adapter predicts.

Patients are those with native resolution. Their doses at half resolution are predicted once, brought to the native grid
and kept beside its channels; training then draws windows of them. The network learns what is missing from the dose.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from safetensors.torch import save_file
from torch import Tensor

from client.data.channel_cache import case_hash
from client.data.load import load_case
from client.site.config import SiteConfig
from shared_model.adapter.manifest import load_adapter, unpack, vector_hash
from shared_model.adapter.shared import adapted_model
from shared_model.base.voxel_training import dvh_distance
from shared_model.bundled import DEFAULT_ADAPTER
from shared_model.channels.volumes import patient_channels
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, whole_file, write_text
from shared_model.network.device import autocast
from shared_model.network.fine import FineNet
from shared_model.network.seeding import seeded
from shared_model.patient.anatomy import OAR_NAMES
from shared_model.patient.case import Case
from shared_model.prediction.fine_stage import FINE_CHANNELS, SEEN, FineStage, fine_inputs
from shared_model.prediction.predictor import predict_dose
from shared_model.scoring.dosimetry import score_case, summarise
from simulations.data.datasets import evaluation_sites
from simulations.reports.scoring import native_site, upsample
from simulations.settings.commands import DataSettings, data_settings
from simulations.settings.composition import check_number, check_range, compose_values, path

# Voxels (z, y, x) of a window, and windows of a step.
WINDOW = (40, 48, 48)
WINDOWS = 2
LEAST_VOXELS = 16
STRUCTURES: tuple[str, ...] = ("is_high", "is_middle", "is_low", *(f"is_{name}" for name in OAR_NAMES))
# Shares of windows that lose a modality's channels.
DROPPED = {"ct": (("ct", "soft_tissue"), 0.15), "oar": (tuple(f"is_{name}" for name in OAR_NAMES), 0.1)}
EMA = 0.995
# A patient at half and at native resolution: the sites that hold them, and the case id.
Listed = tuple[SiteConfig, SiteConfig, str]


@dataclass(frozen=True, kw_only=True)
class FineSettings:
    """See simulations/conf/fine.yaml."""

    data: DataSettings
    out: Path
    seed: int
    patients: int
    checked: int
    steps: int
    every: int
    lr: float
    dvh_weight: float
    threads: int

    def __post_init__(self) -> None:
        check_range("patients", self.patients, 0, 100_000)
        check_range("checked", self.checked, 1, 100_000)
        check_range("steps", self.steps, 1, 10**7)
        check_range("every", self.every, 1, 10**7)
        check_range("threads", self.threads, 1, 256)
        check_number("lr", self.lr, 0.0, 1.0)
        check_number("dvh_weight", self.dvh_weight, 0.0, 100.0)


@dataclass(frozen=True, kw_only=True)
class _Fine:
    """Kept inputs (z, y, x, FINE_CHANNELS) and what the dose lacks (z, y, x), both over the prescription."""

    inputs: NDArray[np.float16]
    truth: NDArray[np.float16]
    spacing_mm: tuple[float, float, float]


def fine_settings(overrides: Sequence[str]) -> FineSettings:
    """Compose and check ``simulate fine``'s settings."""
    raw, _ = compose_values("fine", overrides)
    keys = ("seed", "patients", "checked", "steps", "every", "lr", "dvh_weight", "threads")
    return FineSettings(data=data_settings(raw), out=path(raw["out"], "out"), **{key: raw[key] for key in keys})


def train_fine(settings: FineSettings, bars: Progress) -> str:
    """Train; writes weights.safetensors, card.json and curve.csv in ``out`` and returns the last scores in words."""
    torch.set_num_threads(settings.threads)
    teacher = _Teacher(settings)
    listed = {split: _pairs(settings, split) for split in ("train", "validation")}
    # Spread over the cohort, whose numbers go with what it lacks and when it was treated.
    listed["train"] = _some(listed["train"], settings.patients)
    listed["validation"] = _some(listed["validation"], settings.checked)
    bar = bars.add_task("doses at half resolution", total=sum(map(len, listed.values())), note="")
    kept = []
    for coarse, fine, case_id in listed["train"]:
        kept.append(teacher.kept(load_case(coarse, case_id), load_case(fine, case_id)))
        bars.advance(bar)
    checks = []
    for coarse, fine, case_id in listed["validation"]:
        case, full = load_case(coarse, case_id), load_case(fine, case_id)
        checks.append((full, torch.from_numpy(teacher.dose(case, full))))
        bars.advance(bar)
    with seeded(settings.seed):
        network = FineNet(FINE_CHANNELS)
    average = [p.detach().clone() for p in network.parameters()]
    spacing = _ranges(kept)
    lines = ["step,cpu_min,train_gy,dose,dvh,dose_before,dvh_before"]
    before = summarise([score_case(full, dose) for full, dose in checks])
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.lr, betas=(0.9, 0.99), weight_decay=0.01)
    bar = bars.add_task("training", total=settings.steps, note="")
    errors, began, said = [], time.process_time(), ""
    for step in range(settings.steps):
        generator = torch.Generator().manual_seed(settings.seed * 10_000_019 + step)
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * min(1.0, (step + 1) / 50) * 0.5 * (1 + np.cos(np.pi * step / settings.steps))
        optimiser.zero_grad(set_to_none=True)
        for _ in range(WINDOWS):
            one = kept[int(torch.randint(len(kept), (), generator=generator))]
            loss, error = _window_loss(network, one, generator, settings.dvh_weight)
            (loss / WINDOWS).backward()
            errors.append(error)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            share = 1 - min(EMA, (1 + step) / (10 + step))
            torch._foreach_lerp_(average, list[Tensor](network.parameters()), share)
        bars.advance(bar)
        if (step + 1) % settings.every == 0 or step + 1 == settings.steps:
            averaged = FineNet(FINE_CHANNELS)
            with torch.no_grad():
                for parameter, mean in zip(averaged.parameters(), average, strict=True):
                    parameter.copy_(mean.to(torch.bfloat16))
            stage = FineStage(averaged, spacing)
            after = summarise([score_case(full, stage.sharpen(dose, full)) for full, dose in checks])
            minutes = (time.process_time() - began) / 60
            row = [step + 1, minutes, 70 * float(np.mean(errors)), *_two(after), *_two(before)]
            lines.append(",".join(f"{value:.6g}" for value in row))
            errors = []
            said = f"{step + 1} steps: {after['dose_score_gy']:.3f} / {after['dvh_score_gy']:.3f}"
            said += f" (before {before['dose_score_gy']:.3f} / {before['dvh_score_gy']:.3f}), {minutes:.1f} CPU min"
            bars.console.print(said, markup=False, soft_wrap=True)
            _write(settings, stage, teacher.sha256, len(kept), lines)
    return f"{said}\nweights   {settings.out / 'weights.safetensors'}"


class _Teacher:
    """The bundled adapter, whose doses the stage is to mend, and the folder where they are kept."""

    def __init__(self, settings: FineSettings) -> None:
        self._spec, vector, _ = load_adapter(DEFAULT_ADAPTER)
        self._model = adapted_model(self._spec)
        unpack(self._model, vector)
        self._model.eval()
        self.sha256, self._folder = vector_hash(vector), settings.out / "cache"
        self._folder.mkdir(parents=True, exist_ok=True)

    def dose(self, coarse: Case, fine: Case) -> NDArray[np.float32]:
        """The adapter's dose (z, y, x) Gy on the fine grid, back-projected; kept on disk."""
        file = self._folder / f"{self.sha256[:8]}-{case_hash(fine)[:24]}-dose.npy"
        if not file.is_file():
            with torch.no_grad():
                half = predict_dose(self._model, replace(coarse, dose_gy=None), self._spec, flips=True)
            _save(file, upsample(half, coarse, fine).numpy().astype(np.float32))
        found: NDArray[np.float32] = np.load(file)
        return found

    def kept(self, coarse: Case, fine: Case) -> _Fine:
        """Inputs and truth of one patient, mapped from disk."""
        key = f"{self.sha256[:8]}-{case_hash(fine)[:24]}"
        inputs, truth = self._folder / f"{key}-inputs.npy", self._folder / f"{key}-truth.npy"
        if not truth.is_file():
            patient = patient_channels(fine)
            _save(inputs, fine_inputs(patient, self.dose(coarse, fine)[patient.slices]))
            _save(truth, np.ascontiguousarray(patient.stack[..., patient.layout.index("dose")]))
        return _Fine(
            inputs=np.load(os.fspath(inputs), mmap_mode="r"),
            truth=np.load(os.fspath(truth), mmap_mode="r"),
            spacing_mm=fine.grid.spacing_mm,
        )


def _window_loss(network: FineNet, one: _Fine, generator: torch.Generator, dvh_weight: float) -> tuple[Tensor, float]:
    shape = one.truth.shape
    places = [
        int(torch.randint(max(1, n - w + 1), (), generator=generator)) for n, w in zip(shape, WINDOW, strict=True)
    ]
    cut = tuple(slice(low, low + min(n, w) // 2 * 2) for low, n, w in zip(places, shape, WINDOW, strict=True))
    x = torch.from_numpy(np.ascontiguousarray(one.inputs[cut])).float()
    truth = torch.from_numpy(np.ascontiguousarray(one.truth[cut])).float()
    mirrored, *lost = torch.rand(1 + len(DROPPED), generator=generator).tolist()
    if mirrored < 0.5:
        x, truth = x.flip(2), truth.flip(2)
    for (names, share), chance in zip(DROPPED.values(), lost, strict=True):
        if chance < share:
            x[..., [1 + SEEN.index(name) for name in names]] = 0.0
    inside = x[..., 1 + SEEN.index("body")] > 0.5
    with autocast(torch.device("cpu"), "bf16"):
        added = network(x.permute(3, 0, 1, 2)[None])
    dose = x[..., 0] + added[0, 0].float()
    error = ((dose - truth).abs() * inside).sum() / inside.sum().clamp_min(1)
    loss = error
    apart = []
    for name in STRUCTURES:
        where = x[..., 1 + SEEN.index(name)] > 0.5
        if int(where.sum()) >= LEAST_VOXELS:
            apart.append(dvh_distance(dose[where], truth[where]))
    if apart and dvh_weight:
        loss = loss + dvh_weight * torch.stack(apart).mean()
    return loss, float(error.detach())


def _pairs(settings: FineSettings, split: str) -> list[Listed]:
    sites = evaluation_sites(settings.data, split, settings.out, settings.seed)
    fine = native_site(settings.data, sites)
    if fine is None:
        raise InputError("simulate fine: no patient at native resolution; expected data=openkbp with full128/")
    return [(site, fine, c) for site in sites for c in site.validation if c in fine.validation]


def _some(listed: list[Listed], count: int) -> list[Listed]:
    """About ``count`` of them, evenly chosen; 0: all."""
    return listed if not count or count >= len(listed) else [listed[k * len(listed) // count] for k in range(count)]


def _ranges(kept: Sequence[_Fine]) -> tuple[tuple[float, float], tuple[float, float]]:
    slices, pixels = [one.spacing_mm[0] for one in kept], [one.spacing_mm[1] for one in kept]
    return (min(slices), max(slices)), (min(pixels), max(pixels))


def _two(scores: dict[str, float]) -> tuple[float, float]:
    return scores["dose_score_gy"], scores["dvh_score_gy"]


def _write(settings: FineSettings, stage: FineStage, teacher: str, patients: int, lines: Sequence[str]) -> None:
    weights = {
        name: value.detach().to(torch.bfloat16).contiguous() for name, value in stage.network.state_dict().items()
    }
    settings.out.mkdir(parents=True, exist_ok=True)
    save_file(weights, settings.out / "weights.safetensors")
    slices, pixels = stage.spacing_mm
    card = {
        "what": "second stage: dose at half resolution to OpenKBP's own voxels",
        "trained_on": {"data": "OpenKBP training patients", "patients": patients},
        "spacing_mm": {"slices": list(slices), "pixels": list(pixels)},
        "parameters": sum(p.numel() for p in stage.network.parameters()),
        "adapter_sha256": teacher,
        "seed": settings.seed,
        "steps": int(lines[-1].split(",")[0]),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_text(settings.out / "card.json", json.dumps(card, indent=2) + "\n", mode=ORDINARY)
    write_text(settings.out / "curve.csv", "\n".join(lines) + "\n", mode=ORDINARY)


def _save(file: Path, volume: NDArray[np.floating]) -> None:
    with whole_file(file) as stream:
        np.save(stream, volume)

"""`simulate train`: the U-shaped network on a cohort's training patients, scored on its validation patients.

A leg goes on from ``out/checkpoint.pt`` if it is there. Patients without CT or without other modalities take part.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress

from client.data.channel_cache import cached_patient
from client.data.load import load_case
from client.site.config import SiteConfig
from shared_model.adapter.card import adapter_card, card_bytes, card_path
from shared_model.adapter.envelope import Envelope
from shared_model.adapter.hub import write_hub_files
from shared_model.adapter.manifest import load_adapter, manifest_hash, pack, rounded, save_adapter, unpack, vector_hash
from shared_model.adapter.shared import adapted_model
from shared_model.bundled import DEFAULT_ADAPTER, PHANTOM_PRIOR
from shared_model.channels.volumes import PatientChannels
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_bytes
from shared_model.forms.volume_sampling import on_grid, predicted
from shared_model.network.pyramid import SIZES, PyramidDiT
from shared_model.network.spec import PRECISIONS, PYRAMID_SIZES, ModelSpec
from shared_model.patient.anatomy import HEAD_NECK
from shared_model.patient.case import Case
from shared_model.scoring.dosimetry import CaseScore, score_case, summarise
from shared_model.training.recipe import Recipe
from shared_model.training.run import Row, Trainer, run
from shared_model.training.together import joined
from simulations.data.datasets import evaluation_sites, training_sites
from simulations.reports.events import FOLDER, NOT_INSTALLED, CurveEvents, events_possible
from simulations.settings.commands import DataSettings, data_settings
from simulations.settings.composition import (
    check_device,
    check_number,
    check_range,
    compose_values,
    optional_path,
    path,
)

# The averaged weights as of the curve's last row.
ADAPTER = "adapter.safetensors"
# Weights that every installation has (``start``).
_STARTS = {"bundled": DEFAULT_ADAPTER, "phantom": PHANTOM_PRIOR}
# oneDNN keeps what it compiled for each size of volume; a body's box has some hundred sizes.
_KERNELS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "12000")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """See simulations/conf/train.yaml."""

    data: DataSettings
    partition: str | None
    recipe: Recipe
    out: Path
    cache: Path
    samples: int
    hours: float
    every: int
    sampled: int
    threads: int
    device: str
    precision: str
    changed: bool
    size: str
    start: Path | None

    def __post_init__(self) -> None:
        check_range("samples", self.samples, 1, 10**9)
        check_range("every", self.every, 1, 10**9)
        check_range("sampled", self.sampled, 0, 100_000)
        check_range("threads", self.threads, 1, 256)
        check_number("hours", self.hours, 0.0, 1e6)
        check_device(self.device)
        self.data.check_body_site(HEAD_NECK)  # simulate run trains networks of other body sites
        if self.size not in PYRAMID_SIZES:
            raise InputError(f"size={self.size!r}: expected {' or '.join(PYRAMID_SIZES)}")
        if not isinstance(self.changed, bool):
            raise InputError(f"changed={self.changed!r}: expected true or false")


def train_settings(overrides: Sequence[str]) -> TrainSettings:
    """Compose and check ``simulate train``'s settings."""
    raw, _ = compose_values("train", overrides)
    _check_recipe(raw)
    out = path(raw["out"], "out")
    keys = ("seed", "lr", "weight_decay", "any_share", "whole_share", "plain_share", "turn_share", "dvh_weight")
    recipe = Recipe(finish=raw["finish"], decay=raw["decay"], **{key: raw[key] for key in keys})
    legs = ("samples", "hours", "every", "sampled", "threads", "device", "precision", "changed", "size")
    return TrainSettings(
        data=data_settings(raw),
        partition=None if raw["partition"] is None else str(raw["partition"]),
        recipe=recipe,
        out=out,
        cache=optional_path(raw["cache"], "cache") or out / "cache",
        start=_STARTS.get(str(raw["start"])) or optional_path(raw["start"], "start"),
        **{key: raw[key] for key in legs},
    )


def _check_recipe(raw: dict[str, Any]) -> None:
    check_range("seed", raw["seed"], 0, 2**63 - 1)
    for key in ("finish", "decay"):
        check_range(key, raw[key], 0, 10**9)
    for key, most in (("lr", 1.0), ("weight_decay", 10.0), ("dvh_weight", 100.0)):
        check_number(key, raw[key], 0.0, most)
    for key in ("any_share", "whole_share", "plain_share", "turn_share"):
        check_number(key, raw[key], 0.0, 1.0)
    if raw["precision"] not in PRECISIONS:
        raise InputError(f"precision={raw['precision']!r}: expected {' or '.join(PRECISIONS)}")


def train_backbone(settings: TrainSettings, bars: Progress) -> str:
    """Train one leg; returns the last row of the curve in words (in one process alone, where there are several)."""
    os.environ.setdefault(*_KERNELS)
    torch.set_num_threads(settings.threads)
    with joined(settings.device) as together:
        if not together.leads:
            bars.stop()
        with together.leader_first():
            patients, _ = _cohort(settings, "train", bars)
            seen, cases = _cohort(settings, "validation", bars)
        start = settings.start and starting_weights(settings.start, settings.size)
        known = start.sha256 if start else ""
        trainer = Trainer(settings.recipe, SIZES[settings.size], patients, settings.precision, together, known)
        if start:
            trainer.begin_from(start.weights)
        teller = _Teller(settings, bars)
        run(
            trainer,
            settings.out,
            samples=settings.samples,
            every=settings.every,
            validate=lambda trainer: scores(trainer.averaged(), cases, seen, settings.sampled, settings.precision),
            told=teller,
            export=lambda trainer: export(settings, trainer),
            hours=settings.hours,
            changed=settings.changed,
        )
    if not together.leads:
        return ""
    last = trainer.curve[-1] if trainer.curve else {}
    return f"{trainer.samples} samples: " + ", ".join(f"{key} {value:.4g}" for key, value in last.items())


class _Teller:
    """Hears of every step: bars and lines for the screen, rows for TensorBoard where its writer is installed."""

    def __init__(self, settings: TrainSettings, bars: Progress) -> None:
        self._settings, self._bars = settings, bars
        self._bar = bars.add_task("training", total=settings.samples, note="")
        self._began, self._first = time.monotonic(), -1
        self._events: CurveEvents | None = None
        if not events_possible():
            bars.console.print(NOT_INSTALLED, markup=False, soft_wrap=True)

    def __call__(self, trainer: Trainer, row: Row | None) -> None:
        if self._first < 0:
            self._first = trainer.samples
        self._bars.update(self._bar, completed=trainer.samples)
        if row is None:
            return
        note = ", ".join(f"{key} {value:.3g}" for key, value in row.items() if key != "samples")
        rate = (trainer.samples - self._first) / max(1e-9, time.monotonic() - self._began)
        left = (self._settings.samples - trainer.samples) / max(rate, 1e-9) / 3600
        self._bars.update(self._bar, note=note)
        if not self._bars.console.is_terminal:
            self._bars.console.print(
                f"{trainer.samples} samples: {note}; {left:.1f} h to go", markup=False, soft_wrap=True
            )
        if events_possible():
            self._events = self._events or CurveEvents(self._settings.out / FOLDER, trainer.curve[:-1])
            self._events.add(row)


@dataclass(frozen=True, kw_only=True)
class Start:
    """Weights of a network by name, and the SHA-256 of the adapter that holds them."""

    weights: dict[str, torch.Tensor]
    sha256: str


def starting_weights(adapter: Path, size: str) -> Start:
    """The weights of a full adapter of this size. InputError if it is another form, size or not an adapter."""
    spec, vector, _ = load_adapter(adapter)
    if spec.network != "pyramid" or spec.adapter != "full" or spec.size != size:
        raise InputError(
            f"start={adapter}: {spec.network} of size {spec.size} with adapter {spec.adapter}; expected all weights of "
            f"a pyramid of size {size}"
        )
    model = adapted_model(spec)
    unpack(model, vector)
    return Start(weights=dict(model.network.state_dict()), sha256=vector_hash(vector))


def export(settings: TrainSettings, trainer: Trainer) -> None:
    """Write the averaged weights, rounded to bf16, as a full adapter with its card."""
    spec = ModelSpec(network="pyramid", size=settings.size, prior="none", init_seed=trainer.recipe.seed)
    model = adapted_model(spec)
    averaged = trainer.averaged()
    model.network.load_state_dict(averaged.state_dict())
    vector = rounded(pack(model))
    file_sha256 = save_adapter(settings.out / ADAPTER, spec, vector)
    identity = {
        "sha256": vector_hash(vector),
        "file_sha256": file_sha256,
        "numbers": vector.size,
        "manifest": manifest_hash(spec),
    }
    sites = _sites(settings, "train")
    report = {
        "name": "central",
        "seed": trainer.recipe.seed,
        "rounds": 0,
        "sites": {site.site: len(site.validation) for site in sites},
        "privacy": {"mode": "central"},
    }
    row = trainer.curve[-1]
    metrics = {"dose_score_gy": row["dose"], "dvh_score_gy": row["dvh"]} if "dose" in row else {}
    card = adapter_card(spec, identity, report, metrics, datetime.now(UTC).isoformat(timespec="seconds"))
    card["training"] = {"recipe": asdict(trainer.recipe), "patients": len(trainer.patients), "curve": trainer.curve}
    if trainer.start:
        # Whose patients that adapter saw its own card says.
        card["training"]["start_sha256"] = trainer.start
    card["trained_on"] = _ranges(tuple(sites)).record()
    write_bytes(card_path(settings.out / ADAPTER), card_bytes(card), mode=ORDINARY)
    write_hub_files(settings.out / ADAPTER, spec, vector, card)


@lru_cache(maxsize=1)
def _ranges(sites: tuple[SiteConfig, ...]) -> Envelope:
    return Envelope.measure(load_case(site, case_id) for site in sites for case_id in site.validation)


def scores(
    network: PyramidDiT, cases: Sequence[Case], patients: Sequence[PatientChannels], sampled: int, precision: str
) -> dict[str, float]:
    """OpenKBP's scores (Gy) of the mean, of all and of those with CT, and of four steps on the first ``sampled``."""
    one = [_score(network, case, patient, 1, precision) for case, patient in zip(cases, patients, strict=True)]
    with_ct = [score for score, case in zip(one, cases, strict=True) if case.ct_hu is not None]
    few = list(zip(cases, patients, strict=True))[:sampled]
    four = [_score(network, case, patient, 4, precision) for case, patient in few]
    out: dict[str, float] = {}
    for name, found in (("", one), ("_ct", with_ct), ("_few", one[:sampled]), ("_few_4", four)):
        if found:
            summary = summarise(found)
            out |= {f"dose{name}": summary["dose_score_gy"], f"dvh{name}": summary["dvh_score_gy"]}
    return out


def _score(network: PyramidDiT, case: Case, patient: PatientChannels, steps: int, precision: str) -> CaseScore:
    dose = on_grid(predicted(network, patient, steps=steps, precision=precision)[0], patient, case.grid.shape)
    return score_case(case, torch.from_numpy(np.ascontiguousarray(dose)))


def _sites(settings: TrainSettings, split: str) -> list[SiteConfig]:
    """Sites whose ``validation`` lists who is trained on, or who is scored: always the whole official split."""
    if split == "train":
        return training_sites(settings.data, settings.partition, settings.out, settings.recipe.seed)
    everybody = replace(settings.data, hospitals=(), train_per_site=0, validation_per_site=0)
    return evaluation_sites(everybody, split, settings.out, settings.recipe.seed)


def _cohort(settings: TrainSettings, split: str, bars: Progress) -> tuple[list[PatientChannels], list[Case]]:
    """Patients of a split; of validation also their cases, to score."""
    sites = _sites(settings, split)
    listed = [(site, case_id) for site in sites for case_id in site.validation]
    bar = bars.add_task(f"{split} patients", total=len(listed), note="")
    patients, cases = [], []
    for site, case_id in listed:
        case = load_case(site, case_id)
        patients.append(cached_patient(case, settings.cache))
        if split == "validation":
            cases.append(case)
        bars.advance(bar)
    return patients, cases

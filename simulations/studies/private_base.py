"""`simulate private-base`: a linear dose fitted by private steps over simulated hospitals, then its dose score.

The public part is learned from phantom patients alone (shared_model/base/public.py). In each step every hospital
releases its patients' clipped pulls as the deployed path does (privacy/dp/release.py); mode local is the same with all
of the noise at every hospital.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from client.data.load import load_case
from client.site.config import SiteConfig
from privacy.audit.one_run import deployed_release
from privacy.dp.accountant import epsilon, noise_multiplier
from privacy.dp.encoding import add_to
from privacy.dp.terms import PrivacyTerms
from server.config.renamed import refuse_old_keys
from shared_model.base.linear import HOTTEST, design
from shared_model.base.public import PublicBase, Reduced, exact_correction, learn, pull
from shared_model.channels.features import Features, highest_gy, physics_features
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, whole_file, write_text
from shared_model.patient.case import Case
from shared_model.scoring.dosimetry import CaseScore, score_case, summarise
from simulations.data.datasets import hospitals
from simulations.reports.tables import write_json
from simulations.settings.commands import DataSettings, data_settings
from simulations.settings.composition import check_number, check_range, compose_values, mapping, path, several

ROWS = 2000
_Rows = tuple[Features, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class PrivateBaseSettings:
    """``simulate private-base``."""

    out: Path
    partition: str
    epsilons: tuple[float, ...]
    delta: float
    colluders: int
    directions: int
    steps: tuple[int, ...]
    rates: tuple[float, ...]
    seeds: int
    phantoms: int
    threads: int
    data: DataSettings

    def __post_init__(self) -> None:
        for value in self.epsilons:
            check_number("privacy.epsilon", value, 1e-3, 1e3)
        check_number("privacy.delta", self.delta, 1e-12, 1e-2)
        check_range("directions", self.directions, 1, 200)
        if len(self.steps) != len(self.rates):
            raise InputError("rates: expected one for each of steps")
        for steps, rate in zip(self.steps, self.rates, strict=True):
            check_range("steps", steps, 1, 10_000)
            check_number("rates", rate, 1e-6, 2.0)
        for key in ("colluders", "seeds", "phantoms", "threads"):
            check_range(key, getattr(self, key), 1, 256)


def private_base_settings(overrides: Sequence[str]) -> PrivateBaseSettings:
    """Compose and check the settings."""
    renamed = {"epsilons": "privacy.epsilon", "delta": "privacy.delta", "colluders": "privacy.colluders"}
    refuse_old_keys(overrides, renamed)
    raw, _ = compose_values("private_base", overrides)
    privacy = mapping(raw, "privacy")
    del raw["privacy"]
    lists = {key: several(raw, key) for key in ("steps", "rates")}
    lists["epsilons"] = several(privacy, "epsilon", "privacy.epsilon")
    del privacy["epsilon"]
    return PrivateBaseSettings(
        **{**raw, **privacy, **lists, "out": path(raw["out"], "out"), "data": data_settings(raw)}
    )


@dataclass(frozen=True, kw_only=True)
class _FittedBase:
    """One set of coefficients (d,) and how it was fitted; epsilon 0 means no privacy."""

    mode: str
    epsilon: float
    epsilon_alone: float
    steps: int
    weights: NDArray[np.float32]


def run_private_base(settings: PrivateBaseSettings) -> str:
    """Fit and score all variants; writes private_base.json and .md to ``settings.out``; returns the table."""
    started = time.process_time()
    torch.set_num_threads(settings.threads)
    phantoms = DataSettings(kind="phantom", sites=4, patients=settings.phantoms)
    # A folder of their own: phantom hospitals of the study may have the same names.
    public = _rows(settings.out / "public", hospitals(phantoms, "", settings.out, 0))
    sites = hospitals(settings.data, settings.partition, settings.out, 0)
    own = [_rows(settings.out, [site]) for site in sites]
    base = learn(public, settings.directions)
    hospitals_ = [[base.reduce(patient) for patient in site] for site in own]
    pooled = exact_correction([patient for site in hospitals_ for patient in site])
    fits = [_open_fit("public", base.coefficients(np.zeros(settings.directions)))]
    fits.append(_open_fit("none", base.coefficients(pooled)))
    for steps, rate in zip(settings.steps, settings.rates, strict=True):
        for wanted in settings.epsilons:
            for mode in ("shared", "local"):
                fits += [_private(settings, base, hospitals_, wanted, mode, steps, rate) for _ in range(settings.seeds)]
    scores = _score_fits(settings, sites, fits)
    found = {"fits": scores, "cpu_s": round(time.process_time() - started, 1), "patients": sum(map(len, own))}
    write_json(settings.out / "private_base.json", found)
    report = _table(scores)
    write_text(settings.out / "private_base.md", report + "\n", mode=ORDINARY)
    return report


def write_public_base(out: Path, phantoms: int, directions: int) -> str:
    """Learn the public part of ``model.base=phantom`` and write ``public.npz`` and its card to ``out``."""
    data = DataSettings(kind="phantom", sites=4, patients=phantoms)
    rows = _rows(out, hospitals(data, "", out, 0))
    base = learn(rows, directions)
    out.mkdir(parents=True, exist_ok=True)
    directions_dk = base.directions.astype(np.float32)
    with whole_file(out / "public.npz", ORDINARY) as stream:
        np.savez(stream, weights=base.weights, directions=directions_dk, clip=np.float64(base.clip))
    card = {
        "what": "public coefficients and directions of model.base=phantom",
        "recipe": f"simulate phantom-base --out DIR --phantoms {phantoms} --directions {directions}",
        "phantom_patients": len(rows),
        "clip": base.clip,
        "sha256": hashlib.sha256((out / "public.npz").read_bytes()).hexdigest(),
    }
    write_json(out / "card.json", card)
    return f"{len(rows)} phantom patients, clip {base.clip:.4f}, sha256 {card['sha256']}"


def _open_fit(mode: str, weights: NDArray[np.float32]) -> _FittedBase:
    return _FittedBase(mode=mode, epsilon=0.0, epsilon_alone=0.0, steps=0, weights=weights)


def _terms(
    settings: PrivateBaseSettings, clip: float, sites: int, cohort: int, wanted: float, steps: int
) -> PrivacyTerms:
    return PrivacyTerms(
        mode="shared",
        z=noise_multiplier(wanted, settings.delta, 1.0, steps),
        q=1.0,
        steps=steps,
        clip=clip,
        delta=settings.delta,
        cohort=cohort,
        sites=sites,
        survivors=sites,
        colluders=settings.colluders,
    )


def _private(
    settings: PrivateBaseSettings,
    base: PublicBase,
    sites: Sequence[Sequence[Reduced]],
    wanted: float,
    mode: str,
    steps: int,
    rate: float,
) -> _FittedBase:
    """Coefficients after ``steps`` private steps of size ``rate``; a hospital sends k ring numbers a step."""
    terms = _terms(settings, base.clip, len(sites), sum(map(len, sites)), wanted, steps)
    if mode == "local":  # survivors - colluders = 1: nothing is shared
        terms = replace(terms, survivors=settings.colluders + 1)
    correction = np.zeros(settings.directions)
    for _ in range(steps):
        released = [deployed_release(np.stack([pull(p, correction) for p in site]), terms) for site in sites]
        total = released[0]
        for other in released[1:]:
            add_to(total, other)
        correction = correction + rate * terms.encoding().decode(total) / terms.divisor
    return _FittedBase(
        mode=mode,
        epsilon=wanted,
        epsilon_alone=epsilon({(terms.z_alone, 1.0): steps}, terms.delta),
        steps=steps,
        weights=base.coefficients(correction),
    )


def _rows(out: Path, sites: Sequence[SiteConfig]) -> list[_Rows]:
    """Rows of each training patient with targets and a dose, kept below ``out`` from run to run."""
    found = []
    for site in sites:
        for case_id in site.train:
            kept = out / "rows" / f"{site.site}_{case_id}.npz"
            if not kept.is_file():
                kept.parent.mkdir(parents=True, exist_ok=True)
                features, ratio = _case_rows(load_case(site, case_id))
                with whole_file(kept, ORDINARY) as stream:
                    np.savez(stream, features=features, ratio=ratio)
            with np.load(kept) as file:
                if file["ratio"].size:
                    found.append((file["features"], file["ratio"]))
    return found


def _case_rows(case: Case) -> _Rows:
    unit_gy = highest_gy(case)
    features = physics_features(case)
    n = len(features) if unit_gy and case.dose_gy is not None else 0
    chosen = np.sort(np.random.RandomState(n).permutation(n)[:ROWS])
    if case.dose_gy is None or not unit_gy:
        return features[chosen], np.zeros(0, dtype=np.float32)
    ratio = np.minimum(case.dose_gy[case.body][chosen] / np.float32(unit_gy), 3.0)
    return features[chosen], ratio.astype(np.float32)


def _score_fits(
    settings: PrivateBaseSettings, sites: Sequence[SiteConfig], fits: Sequence[_FittedBase]
) -> list[dict[str, Any]]:
    """Scores of every fit on the validation patients. Makes each patient's rows once for all fits."""
    weights = np.stack([fit.weights for fit in fits], axis=1)
    by_fit: list[list[CaseScore]] = [[] for _ in fits]
    for case in _validation(sites):
        ratios = _in_blocks(physics_features(case), weights)
        for number, scores in enumerate(by_fit):
            dose = np.zeros(case.grid.shape, dtype=np.float32)
            dose[case.body] = np.clip(ratios[:, number], 0.0, HOTTEST) * np.float32(highest_gy(case))
            scores.append(score_case(case, torch.from_numpy(dose)))
    return [
        {
            "mode": fit.mode,
            "epsilon": fit.epsilon,
            "epsilon_all_others_collude": fit.epsilon_alone,
            "steps": fit.steps,
            **summarise(scores),
        }
        for fit, scores in zip(fits, by_fit, strict=True)
    ]


def _in_blocks(features: Features, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([design(features[i : i + 20_000]) @ weights for i in range(0, len(features), 20_000)])


def _validation(sites: Sequence[SiteConfig]) -> Iterator[Case]:
    for site in sites:
        for case_id in site.validation:
            yield load_case(site, case_id)


def _table(scores: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| mode | steps | epsilon | all others collude | dose score (Gy) | DVH score (Gy) |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in scores:
        groups.setdefault((one["steps"], one["mode"], one["epsilon"]), []).append(one)
    for (count, mode, wanted), same in groups.items():
        cells = []
        for key in ("dose_score_gy", "dvh_score_gy"):
            values = [one[key] for one in same]
            spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.2f}{spread}")
        both = (f"{wanted:g}", f"{same[0]['epsilon_all_others_collude']:.1f}") if wanted else ("", "")
        lines.append(f"| {mode} | {count or ''} | {both[0]} | {both[1]} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)

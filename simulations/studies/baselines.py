"""`simulate baselines`: simple models that any dose model must beat. Trains on one cohort and scores on another.

constant: one dose everywhere in the body. atlas: the mean dose of the training patients about the high target's
centroid. gbm5 and gbm24: gradient boosting (LightGBM, L1) of five target distances, and of all 24 physics features
(shared_model/channels/features.py). ridge: linear in these features, their hinges and random Fourier features. unet and
voxel: simulations/studies/unet.py and voxel.py.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from client.data.load import load_case
from client.site.config import SiteConfig
from shared_model.base import linear
from shared_model.channels.features import NAMES, Features, highest_gy, physics_features
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_text
from shared_model.patient.case import Case, Volume
from shared_model.patient.geometry import Grid, Resampler
from shared_model.scoring.dosimetry import summarise
from simulations.data.datasets import evaluation_sites
from simulations.data.partition import one_site
from simulations.reports.scoring import native_site, overall, score_predictions
from simulations.reports.tables import write_json
from simulations.settings.commands import BaselinesSettings

Predict = Callable[[Case], Volume]
# Rows a training patient gives to gradient boosting.
_ROWS = 2000
_HOTTEST = 1.17
# Of the ridge regression: the scale of its random directions, and where dose / prescription is cut off in training.
_FOURIER_SCALE, _RATIO_CUT = 0.25, 3.0
_ATLAS_SPACING_MM = (6.0, 6.0, 6.0)
_ATLAS_SHAPE = (80, 64, 96)


@dataclass(frozen=True, kw_only=True)
class TrainingPatients:
    """Training patients, one by one: a method reads a case, takes what it needs and frees it."""

    site: SiteConfig

    def cases(self) -> list[Case]:
        """The training cases."""
        return [load_case(self.site, case_id) for case_id in self.site.train]


def constant(cohort: TrainingPatients, settings: BaselinesSettings) -> Predict:
    """The median dose of the training bodies, as a fraction of the prescription; the mean of the patients' medians."""
    level = float(np.mean([np.median(_ratio(case)) for case in cohort.cases()]))

    def predict(case: Case) -> Volume:
        return (case.body * np.float32(level * highest_gy(case))).astype(np.float32)

    return predict


def atlas(cohort: TrainingPatients, settings: BaselinesSettings) -> Predict:
    """Mean relative dose, where at least one training patient has a body, about the high target's centroid."""
    total = torch.zeros(_ATLAS_SHAPE)
    weight = torch.zeros(_ATLAS_SHAPE)
    for case in cohort.cases():
        to = Resampler(case.grid, _atlas_grid(case))
        body = torch.from_numpy(case.body.astype(np.float32))
        assert case.dose_gy is not None
        total += to.average(torch.from_numpy(case.dose_gy / highest_gy(case)) * body)
        weight += to.average(body)
    mean = torch.where(weight > 0.5, total / weight.clamp_min(0.5), 0.0)

    def predict(case: Case) -> Volume:
        ratio = Resampler(_atlas_grid(case), case.grid).interpolate(mean).numpy()
        return (ratio * case.body * highest_gy(case)).astype(np.float32)

    return predict


def _atlas_grid(case: Case) -> Grid:
    """The atlas, with its middle on the centroid of the highest target."""
    centroid = case.grid.position_mm(np.argwhere(case.structures[case.targets[0]]).mean(axis=0))
    z, y, x = (float(c - 0.5 * (n - 1) * s) for c, n, s in zip(centroid, _ATLAS_SHAPE, _ATLAS_SPACING_MM, strict=True))
    return Grid(_ATLAS_SHAPE, _ATLAS_SPACING_MM, (z, y, x))


def boosting(columns: int) -> Callable[[TrainingPatients, BaselinesSettings], Predict]:
    """Gradient boosting of the first ``columns`` physics features."""

    def train(cohort: TrainingPatients, settings: BaselinesSettings) -> Predict:
        if importlib.util.find_spec("lightgbm") is None:
            raise InputError("methods: gradient boosting needs LightGBM; install fedkt3d[baselines]")
        import lightgbm

        random = np.random.RandomState(settings.seed)
        rows, targets = [], []
        for case in cohort.cases():
            ratio = _ratio(case)
            chosen = random.permutation(ratio.size)[:_ROWS]
            rows.append(_table(physics_features(case)[chosen], columns))
            targets.append(ratio[chosen])
        # LightGBM's own interface, because its other one needs scikit-learn.
        recipe = {
            "objective": "l1", "learning_rate": 0.1, "num_leaves": 95, "min_data_in_leaf": 100, "bagging_fraction": 0.8,
            "bagging_freq": 1, "feature_fraction": 0.8, "num_threads": settings.threads, "verbose": -1,
            "seed": settings.seed, "deterministic": True, "force_row_wise": True,
        }  # fmt: skip
        data = lightgbm.Dataset(np.concatenate(rows), label=np.concatenate(targets))
        model = lightgbm.train(recipe, data, num_boost_round=300)
        return lambda case: _in_body(case, np.asarray(model.predict(_table(physics_features(case), columns))))

    return train


def _table(features: Features, columns: int) -> NDArray[np.float32]:
    return features[:, :columns].astype(np.float32)


def ridge(cohort: TrainingPatients, settings: BaselinesSettings) -> Predict:
    """Ridge regression in which every patient weighs the same, however many voxels they have."""
    directions, phases = _fourier(settings.ridge_fourier)

    def rows(features: Features) -> NDArray[np.float32]:
        waves = np.cos(linear.standardised(features) @ directions + phases)
        return np.concatenate([linear.design(features), waves], axis=1)

    size = linear.columns() + settings.ridge_fourier
    gram, right, cases = np.zeros((size, size)), np.zeros(size), cohort.cases()
    for case in cases:
        features, ratio = physics_features(case), np.minimum(_ratio(case), _RATIO_CUT)
        chosen = np.random.RandomState(len(ratio)).permutation(len(ratio))[: linear.VOXELS_PER_PATIENT]
        x = rows(features[chosen]).astype(np.float64)
        gram += x.T @ x / (len(chosen) * len(cases))
        right += x.T @ ratio[chosen] / (len(chosen) * len(cases))
    weights = np.linalg.solve(gram + linear.PENALTY * np.eye(size), right).astype(np.float32)
    return lambda case: linear.predict(case, physics_features(case), weights, rows)


def _fourier(count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Random directions (24, count) and phases (count,) (Rahimi and Recht 2007), the same in every run."""
    random = np.random.RandomState(20260101)
    directions = random.standard_normal((count, len(NAMES))).T * _FOURIER_SCALE
    return directions.astype(np.float32), (random.random_sample(count) * 2 * np.pi).astype(np.float32)


def unet(cohort: TrainingPatients, settings: BaselinesSettings) -> Predict:
    """A small 3D U-Net on physics volumes."""
    from simulations.studies.unet import train_unet

    return train_unet(cohort.cases(), settings.unet_cpu_s, settings.seed)


def voxel(cohort: TrainingPatients, settings: BaselinesSettings) -> Predict:
    """A small network that sees one voxel's features at a time."""
    from simulations.studies.voxel import train_voxel

    return train_voxel(cohort.cases(), settings.seed, settings.voxel_steps)


METHODS: Mapping[str, Callable[[TrainingPatients, BaselinesSettings], Predict]] = {
    "constant": constant,
    "atlas": atlas,
    "gbm5": boosting(5),
    "gbm24": boosting(24),
    "ridge": ridge,
    "unet": unet,
    "voxel": voxel,
}


def run_baselines(settings: BaselinesSettings, bars: Progress) -> str:
    """Train and score every method; writes ``out/baselines.json`` and ``out/baselines.md``, returns the table."""
    torch.set_num_threads(settings.threads)
    found = evaluation_sites(settings.data, "train", settings.out, settings.seed)
    train = [replace(site, train=site.validation, validation=()) for site in found]
    test = evaluation_sites(settings.data, settings.split, settings.out, settings.seed)
    cohort = TrainingPatients(site=one_site(train, "pooled"))
    fine = native_site(settings.data, test)
    bar = bars.add_task("baselines", total=len(settings.methods), note="")
    results: dict[str, Any] = {}
    for name in settings.methods:
        bars.update(bar, note=name)
        started = time.process_time()
        predict = METHODS[name](cohort, settings)
        fit_s = time.process_time() - started
        results[name] = {"fit_cpu_s": round(fit_s, 1), **_score(predict, test, fine)}
        bars.advance(bar)
        # A log file shows no progress bars, and later methods may take long. So print each result at once.
        if not bars.console.is_terminal:
            bars.console.print(f"{name}: {results[name]}")
    summary = {"split": settings.split, "seed": settings.seed, "methods": results}
    write_json(settings.out / "baselines.json", summary)
    write_text(settings.out / "baselines.md", baselines_table(results), mode=ORDINARY)
    return f"{baselines_table(results)}\ntable     {settings.out / 'baselines.md'}"


def _score(predict: Predict, test: Sequence[SiteConfig], fine: SiteConfig | None) -> dict[str, Any]:
    """Scores on the patients' own grid, and upsampled on the native one."""
    seconds: list[float] = []

    def predict_timed(site: SiteConfig, case: Case) -> torch.Tensor:
        before = time.process_time()
        dose = torch.from_numpy(predict(case))
        seconds.append(time.process_time() - before)
        return dose

    scores, native = score_predictions(test, predict_timed, fine)
    found: dict[str, Any] = {**overall(scores), "predict_cpu_s": round(sum(seconds) / len(seconds), 2)}
    if native:
        found["native"] = summarise(list(native.values()))
    return found


def baselines_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: dose and DVH score at the scored grid and at the native one, and what each method costs."""
    lines = [
        "| method | dose score (Gy) | DVH score (Gy) | MAE ref ≥ 5 Gy (Gy) | native grid: dose / DVH | fit (CPU s) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in results.items():
        native = found.get("native")
        fine = "" if native is None else (
            f"{native['dose_score_gy']:.2f} / {native['dvh_score_gy']:.2f} (n={native['patients']:.0f})"
        )  # fmt: skip
        lines.append(
            f"| {name} | {found['dose_score_gy']:.2f} | {found['dvh_score_gy']:.2f} | {found['mae_ref5_gy']:.2f} "
            f"| {fine} | {found['fit_cpu_s']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _ratio(case: Case) -> NDArray[np.float32]:
    """Dose over the highest prescription in the body, (n,)."""
    if case.dose_gy is None or not highest_gy(case):
        raise InputError(f"case {case.case_id}: a baseline trains on cases with dose and targets")
    return (case.dose_gy[case.body] / highest_gy(case)).astype(np.float32)


def _in_body(case: Case, ratio: NDArray[np.floating]) -> Volume:
    out = np.zeros(case.grid.shape, dtype=np.float32)
    out[case.body] = np.clip(ratio, 0.0, _HOTTEST) * highest_gy(case)
    return out

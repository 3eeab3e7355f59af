"""Scores of one vector on the validation patients of many sites, patient by patient."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.data.load import load_case
from client.site.config import SiteConfig
from client.training.train import score_validation
from privacy.wire.messages import EvaluateTask
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid, back_project
from shared_model.scoring.dosimetry import CaseScore, score_case, summarise
from simulations.settings.commands import DataSettings

# Site -> case pseudonym -> score.
SiteScores = Mapping[str, Mapping[str, CaseScore]]
COLUMNS = ("dose_score_gy", "dvh_score_gy", "mae_ref5_gy", "mae_gdp_gy")


def score_sites(
    sites: Sequence[SiteConfig],
    spec: ModelSpec,
    vector: NDArray[np.float32],
    task: EvaluateTask,
    scored: Callable[[int], None] = lambda patients: None,
) -> dict[str, dict[str, CaseScore]]:
    """Score every site's validation patients; sites without any are left out."""
    scores = {}
    for site in sites:
        if site.validation:
            found = score_validation(site, spec, vector, task)
            scores[site.site] = dict(zip(site.validation, found, strict=True))
            scored(len(found))
    return scores


def score_predictions(
    sites: Sequence[SiteConfig],
    predict: Callable[[SiteConfig, Case], Tensor],
    native: SiteConfig | None = None,
    scored: Callable[[int], None] = lambda patients: None,
    refined: Callable[[Tensor, Case, Case], Tensor] | None = None,
) -> tuple[dict[str, dict[str, CaseScore]], dict[str, CaseScore]]:
    """Score a dose (z, y, x) in Gy for every site's validation patients, and for those of ``native`` on that grid.

    ``refined``: (dose, its case, the native case) -> dose on the native grid. None: ``upsample``.
    """
    refined = refined or upsample
    scores: dict[str, dict[str, CaseScore]] = {}
    fine: dict[str, CaseScore] = {}
    for site in sites:
        for case_id in site.validation:
            case = load_case(site, case_id)
            dose = predict(site, case)
            scores.setdefault(site.site, {})[case_id] = score_case(case, dose)
            if native is not None and case_id in native.validation:
                full = load_case(native, case_id)
                fine[case_id] = score_case(full, refined(dose, case, full))
            scored(1)
    return scores, fine


def overall(scores: SiteScores) -> dict[str, float]:
    """Scores over all patients of all sites (dosimetry.summarise)."""
    return summarise([score for site in scores.values() for score in site.values()])


def by_ct(
    scores: SiteScores, native: Mapping[str, CaseScore], lacking: Container[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """Scores of the patients with a CT and of those without apart (``lacking``: their ids), where there are both."""
    pairs = [(case, score) for of in scores.values() for case, score in of.items()]
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, lacks in (("with_ct", False), ("without_ct", True)):
        chosen = [(case, score) for case, score in pairs if (case in lacking) is lacks]
        fine = [native[case] for case, _ in chosen if case in native]
        if chosen:
            found[name] = {"metrics": summarise([score for _, score in chosen])}
            found[name] |= {"native": summarise(fine)} if fine else {}
    return found if len(found) > 1 else {}


def study_summary(scores: SiteScores) -> dict[str, object]:
    """The ``studies.NAME`` table of summary.json: scores over all patients, and per site."""
    return {**overall(scores), "per_site": {site: summarise(list(of.values())) for site, of in scores.items()}}


def patients_csv(studies: Mapping[str, SiteScores]) -> str:
    """One line per study and case: the scores behind every mean."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["study", "site", "case", *COLUMNS])
    writer.writerows(_rows(studies))
    return text.getvalue()


def _rows(studies: Mapping[str, SiteScores]) -> Iterable[list[str]]:
    for study, scores in studies.items():
        for site, cases in scores.items():
            for case, score in cases.items():
                one = summarise([score])
                yield [study, site, case, *(f"{one[column]:.4f}" for column in COLUMNS)]


def native_site(data: DataSettings, sites: Sequence[SiteConfig]) -> SiteConfig | None:
    """The scored patients whose data also has native resolution, or None."""
    if data.kind != "openkbp" or not sites:
        return None
    listed = [replace(site, data="openkbp128") for site in sites]
    ids = [c for s in listed for c in s.validation if (s.root / "full128" / f"{c}.npz").is_file()]
    return replace(listed[0], validation=tuple(ids)) if ids else None


def upsample(dose_zyx: Tensor, coarse: Case, fine: Case) -> Tensor:
    """A dose at half resolution on the grid of ``fine``, by iterative back-projection.

    The half grid's voxels are blocks of 2x2x2 native voxels: its first centre lies half a native voxel inwards.
    """
    step = coarse.grid.spacing_mm
    origin = tuple(o + 0.25 * s for o, s in zip(fine.grid.origin_mm, step, strict=True))
    grid = Grid(coarse.grid.shape, step, (origin[0], origin[1], origin[2]))
    return back_project(dose_zyx, torch.from_numpy(fine.body), fine.grid, grid)

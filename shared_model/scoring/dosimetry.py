"""Dose and DVH metrics, batched over predictions of one patient.

There are two families. They are kept apart because their numbers look alike but cannot be compared:

* OpenKBP (Babier et al. 2021, Medical Physics 48(9), doi:10.1002/mp.14845): ``dose_score_gy`` and the DVH score.
  They depend on the voxel size (D0.1cc of a coarse grid is its hottest voxel): compare only scores on the same grid.
* Mean absolute error above 5 Gy: ``mae_ref5_gy`` where the reference reaches 5 Gy, and ``mae_gdp_gy`` in the form of
  the leaderboard of the GDP-HMM challenge (AAPM 2025).

Everything is torch and keeps the device and dtype of the dose. Gradients flow to the dose; those of percentiles go to
the two neighbouring order statistics. Doses are in Gy, masks are boolean (z, y, x). b predictions are of one patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from shared_model.core.errors import InputError
from shared_model.patient.anatomy import is_target
from shared_model.patient.case import Case

LOW_DOSE_GY = 5.0
TARGET_VOLUMES_PERCENT = (99.0, 95.0, 1.0)
SCORE_KEYS = ("dose_score_gy", "dvh_score_gy", "mae_ref5_gy", "mae_gdp_gy")


@dataclass(frozen=True, kw_only=True)
class CaseScore:
    """How far one predicted dose is from the patient's reference dose, all in Gy. Lower is better.

    ``dvh_errors`` maps ``'PTV_7000/D95'``, ``'Brainstem/D0.1cc'``, ... to |prediction - reference|. It holds only
    structures that the patient has.
    """

    dose_score_gy: float
    dvh_errors: Mapping[str, float]
    mae_ref5_gy: float
    mae_gdp_gy: float


def structure_dose(dose_bzyx: torch.Tensor, mask_zyx: torch.Tensor) -> torch.Tensor:
    """Dose in each of the n voxels of one structure, (b, n)."""
    return dose_bzyx[:, mask_zyx]


def dose_at_volume(dose_bn: torch.Tensor, volume_percent: float) -> torch.Tensor:
    """D_x%: the least dose in the hottest ``volume_percent`` of the structure, (b,) Gy.

    It is the (100 - x)-th percentile of the voxel doses, linear between order statistics as in ``numpy.percentile``
    (OpenKBP's convention). This code sorts because ``torch.quantile`` refuses more than 16 million values.
    Raises InputError if the structure has no voxel or the volume is not within 0 to 100 percent.
    """
    ordered = _sort(dose_bn, "dose at volume")
    if not 0.0 <= volume_percent <= 100.0:
        raise InputError(f"dose at volume: {volume_percent} % of the structure; expected 0 to 100")
    return _dose_at_rank(ordered, _rank_of_percentile(ordered.shape[-1], 100.0 - volume_percent))


def _dose_at_rank(sorted_bn: torch.Tensor, rank: float) -> torch.Tensor:
    """The dose at a fractional position 0..n-1 of the ascending order, (b,)."""
    low = int(rank)
    high = min(low + 1, sorted_bn.shape[-1] - 1)
    return torch.lerp(sorted_bn[..., low], sorted_bn[..., high], rank - low)


def _rank_of_percentile(voxels: int, percent: float) -> float:
    return (voxels - 1) * percent / 100.0


def _rank_of_01cc(voxels: int, voxel_cc: float) -> float:
    """The rank at which OpenKBP reads D0.1cc. 0.1 cm3 is rounded to whole voxels (half to even), at least one.

    It is at most the structure. The rank is rounded to single precision at each step, as in code that stores voxel
    sizes so. This shows in the fourth decimal of D0.1cc in Gy, and the reference values include it.
    """
    whole = np.float32(max(1, round(0.1 / voxel_cc)))
    hundred = np.float32(100.0)
    percentile = max(np.float32(0.0), hundred - whole / np.float32(voxels) * hundred)
    return float(np.float32(voxels - 1) * (percentile / hundred))


def dose_at_01cc(dose_bn: torch.Tensor, voxel_cc: float) -> torch.Tensor:
    """D0.1cc: the least dose in the hottest 0.1 cm3 of a structure, as OpenKBP computes it, (b,) Gy.

    Raises InputError if the structure has no voxel.
    """
    ordered = _sort(dose_bn, "D0.1cc")
    return _dose_at_rank(ordered, _rank_of_01cc(ordered.shape[-1], voxel_cc))


def _sort(dose_bn: torch.Tensor, what: str) -> torch.Tensor:
    if dose_bn.shape[-1] == 0:
        raise InputError(f"{what}: the structure has no voxel on this grid; expected at least one")
    return dose_bn.sort(dim=-1).values


def dvh_metrics(
    dose_bzyx: torch.Tensor, structures: Mapping[str, NDArray[np.bool_]], voxel_cc: float
) -> dict[str, torch.Tensor]:
    """OpenKBP's DVH metrics of every structure that has a voxel: name -> (b,) Gy.

    Organs at risk have ``D0.1cc`` and ``mean``, targets have ``D99``, ``D95`` and ``D1``. Keys are
    ``'<TG-263 name>/<metric>'``.
    """
    metrics: dict[str, torch.Tensor] = {}
    for name, mask in structures.items():
        if not mask.any():
            continue
        dose_bn = structure_dose(dose_bzyx, _to_device_of(dose_bzyx, mask))
        ordered, voxels = _sort(dose_bn, name), dose_bn.shape[-1]
        if is_target(name):
            for volume in TARGET_VOLUMES_PERCENT:
                metrics[f"{name}/D{volume:g}"] = _dose_at_rank(ordered, _rank_of_percentile(voxels, 100.0 - volume))
        else:
            metrics[f"{name}/D0.1cc"] = _dose_at_rank(ordered, _rank_of_01cc(voxels, voxel_cc))
            metrics[f"{name}/mean"] = dose_bn.mean(dim=-1)
    return metrics


def dvh_curve(dose_bzyx: torch.Tensor, mask_zyx: torch.Tensor, levels_gy: torch.Tensor) -> torch.Tensor:
    """Cumulative DVH: the fraction of the structure that receives at least each of the m levels, (b, m) in 0..1.

    It is exact for the voxel doses (no bins). As a step function it has no gradient. InputError if the mask is empty.
    """
    ordered = _sort(structure_dose(dose_bzyx, mask_zyx).detach(), "DVH").contiguous()
    b, n = ordered.shape
    levels = levels_gy.to(ordered).expand(b, -1).contiguous()
    below = torch.searchsorted(ordered, levels, right=False)
    return 1.0 - below.to(ordered.dtype) / n


def dose_score_gy(reference_zyx: torch.Tensor, dose_bzyx: torch.Tensor, body_zyx: torch.Tensor) -> torch.Tensor:
    """OpenKBP's dose score of one patient, (b,) Gy: sum of |prediction - reference| over the WHOLE grid / body voxels.

    Body is the possible-dose mask. So dose predicted outside the body adds to the score but not to the voxel count.
    """
    return (dose_bzyx - reference_zyx).abs().sum(dim=(-3, -2, -1)) / body_zyx.sum()


def mae_ref5_gy(reference_zyx: torch.Tensor, dose_bzyx: torch.Tensor, body_zyx: torch.Tensor) -> torch.Tensor:
    """Mean |prediction - reference| over the body's voxels where the reference is at least 5 Gy, (b,) Gy.

    NaN if no reference voxel reaches 5 Gy.
    """
    where = (reference_zyx >= LOW_DOSE_GY) & body_zyx
    return (dose_bzyx - reference_zyx)[:, where].abs().sum(dim=-1) / where.sum()


def mae_gdp_gy(reference_zyx: torch.Tensor, dose_bzyx: torch.Tensor, body_zyx: torch.Tensor) -> torch.Tensor:
    """The GDP-HMM leaderboard's mean absolute error, (b,) Gy; NaN where no reference voxel exceeds 5 Gy.

    Sum of |prediction - reference| over the body's voxels where EITHER exceeds 5 Gy, divided by the number where the
    REFERENCE does. False dose adds to the sum but not to the count. Nothing is scaled here. The challenge first scales
    the reference, and only the reference, to its prescription: use ``scale_to_prescription`` before comparing with its
    numbers.
    """
    over_reference = (reference_zyx > LOW_DOSE_GY) & body_zyx
    over_either = over_reference | ((dose_bzyx > LOW_DOSE_GY) & body_zyx)
    difference = (dose_bzyx - reference_zyx).abs()
    return torch.where(over_either, difference, 0.0).sum(dim=(-3, -2, -1)) / over_reference.sum()


def scale_to_prescription(
    dose_bzyx: torch.Tensor, target_zyx: torch.Tensor, prescription_gy: float, volume_percent: float = 97.0
) -> torch.Tensor:
    """Scale each dose (b, z, y, x) so that D97% of the target equals its prescription.

    GDP-HMM does this to reference doses, with the highest target, before training and scoring. It does not scale
    predictions. Raises InputError if D97% is not above 0 Gy, because then no factor reaches the prescription.
    """
    reached = dose_at_volume(structure_dose(dose_bzyx, target_zyx), volume_percent)
    if not bool((reached > 0).all()):
        raise InputError(f"scaling to prescription: D{volume_percent:g} of the target is 0 Gy; expected a dose there")
    return dose_bzyx * (prescription_gy / reached)[:, None, None, None]


def score_candidates(case: Case, dose_bzyx: torch.Tensor) -> list[CaseScore]:
    """Score b predictions of one patient against ``case.dose_gy``, with one CaseScore for each.

    Scores are computed in double precision. Raises InputError if the case has no reference dose or none above 5 Gy, if
    the shape is not that of the case's grid, or if a prediction is not finite.
    """
    reference = _reference(case)
    if dose_bzyx.ndim != 4 or tuple(dose_bzyx.shape[1:]) != case.grid.shape:
        raise InputError(
            f"case {case.case_id}: predicted dose has shape {tuple(dose_bzyx.shape)}, expected (b, {case.grid.shape})"
        )
    if not bool(torch.isfinite(dose_bzyx).all()):
        raise InputError(f"case {case.case_id}: predicted dose holds values that are not finite")
    dose = dose_bzyx.detach().to("cpu", torch.float64)
    body = torch.from_numpy(case.body)
    metrics = dvh_metrics(torch.cat([reference[None], dose]), case.structures, case.grid.voxel_cc)
    unknown = {f"{name}/mean" for name in case.cut_by_dose}  # of the reference, whose grid ends within the organ
    errors = {key: (value[1:] - value[0]).abs().tolist() for key, value in metrics.items() if key not in unknown}
    columns = [rule(reference, dose, body).tolist() for rule in (dose_score_gy, mae_ref5_gy, mae_gdp_gy)]
    return [
        CaseScore(
            dose_score_gy=columns[0][k],
            dvh_errors={key: values[k] for key, values in errors.items()},
            mae_ref5_gy=columns[1][k],
            mae_gdp_gy=columns[2][k],
        )
        for k in range(dose.shape[0])
    ]


def score_case(case: Case, dose_gy: torch.Tensor) -> CaseScore:
    """Score one predicted dose (z, y, x) in Gy against ``case.dose_gy``. Errors are those of ``score_candidates``."""
    return score_candidates(case, dose_gy[None])[0]


def summarise(scores: Sequence[CaseScore]) -> dict[str, float]:
    """Scores of a cohort: the four metrics in Gy (``SCORE_KEYS``) and the number of ``patients``.

    The DVH score is the mean over all (patient, structure, metric) cells, as in OpenKBP: a patient with more structures
    weighs more. The others are means over patients. InputError if there is no score, or no patient has a structure.
    """
    if not scores:
        raise InputError("summary of scores: no patient was scored; expected at least one")
    cells = [error for score in scores for error in score.dvh_errors.values()]
    if not cells:
        raise InputError("summary of scores: no patient has a structure; the DVH score needs at least one")
    return {
        "dose_score_gy": float(np.mean([score.dose_score_gy for score in scores])),
        "dvh_score_gy": float(np.mean(cells)),
        "mae_ref5_gy": float(np.mean([score.mae_ref5_gy for score in scores])),
        "mae_gdp_gy": float(np.mean([score.mae_gdp_gy for score in scores])),
        "patients": float(len(scores)),
    }


def _reference(case: Case) -> torch.Tensor:
    if case.dose_gy is None:
        raise InputError(f"case {case.case_id}: no reference dose; a prediction can be scored only against one")
    if not bool((case.dose_gy[case.body] > LOW_DOSE_GY).any()):
        raise InputError(f"case {case.case_id}: reference dose nowhere exceeds {LOW_DOSE_GY:g} Gy; is it in Gy?")
    return torch.from_numpy(case.dose_gy.astype(np.float64))


def _to_device_of(dose_bzyx: torch.Tensor, mask: NDArray[np.bool_]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(mask)).to(dose_bzyx.device)

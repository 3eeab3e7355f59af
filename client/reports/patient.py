"""Pictures of one patient's dose and DVHs, drawn without a display.

Colours are from Okabe and Ito (2008) and from perceptually uniform maps, and never the only cue: structures also differ
by marker, reference and prediction by line style.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from client.reports.sheet import DVH, LEFT, LEGEND, LEGEND_GAP, PANEL, TOP, Sheet, plain_axes, save_figure
from client.reports.slices import (
    PageSlice,
    draw_anatomy,
    draw_contours,
    draw_scale_bar,
    draw_wash,
    dress,
    planes_through_target,
)
from shared_model.core.errors import InputError
from shared_model.patient.anatomy import OAR_NAMES, ORGANS
from shared_model.patient.case import Case, Volume
from shared_model.scoring.dosimetry import CaseScore, dvh_curve, dvh_metrics, score_case

# Fractions of the highest dose between which the wash fades in. Below, only the anatomy shows.
WASH_FADE = (0.03, 0.12)
WASH_OPACITY = 0.62
PREDICTION_DASHES = (0, (4, 2))

# Light enough for contours on black, dark enough for lines on white.
_TARGET_STYLES = (("#D55E00", "o"), ("#E69F00", "s"), ("#B8A800", "^"), ("#A0522D", "v"))
_ORGAN_STYLES = (
    ("#0072B2", "D"),
    ("#56B4E9", "P"),
    ("#009E73", ">"),
    ("#66C2A5", "<"),
    ("#CC79A7", "X"),
    ("#9467BD", "*"),
    ("#8C8C8C", "h"),
)
Styles = Mapping[str, tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class _Column:
    """One column of panels: a volume (z, y, x) as a wash over the anatomy, and the label of its colour bar.

    A column with an empty label shares the bar of the next one.
    """

    name: str
    volume: Volume
    opacity: Volume
    colours: Mapping[str, Any]
    label: str
    extend: str = "max"


def site_picture(path: Path, case: Case, dose_gy: NDArray[np.floating[Any]], title: str) -> None:
    """Write ``site_figure`` as a PNG: ``path`` holds the old picture or the whole new one, never a part."""
    save_figure(site_figure(case, dose_gy, title), path)


def site_figure(case: Case, dose_gy: NDArray[np.floating[Any]], title: str) -> Figure:
    """One prediction ``dose_gy`` (z, y, x) in Gy beside the case's reference dose.

    Slices through the highest target's centroid, one scale in mm: reference | prediction | prediction - reference, with
    the structures' outlines; beside them the DVHs, and the case's scores under the title. ``title`` must name
    patients by pseudonym only. Raises InputError if the case has no reference dose, the shapes differ or the prediction
    is not finite.
    """
    if case.dose_gy is None:
        raise InputError(f"picture of case {case.case_id}: no reference dose to compare with")
    dose = _check(case, dose_gy)
    return _figure(case, np.stack([case.dose_gy, dose]), _comparison(case.dose_gy, dose, case), title)


def prediction_figure(case: Case, dose_gy: NDArray[np.floating[Any]], title: str) -> Figure:
    """One prediction (z, y, x) in Gy, beside the case's own dose if it has one.

    ``title`` as in ``site_figure``, InputError likewise.
    """
    dose = _check(case, dose_gy)
    reference = case.dose_gy
    columns = _comparison(reference, dose, case)
    doses = dose[None] if reference is None else np.stack([reference, dose])
    return _figure(case, doses, columns, title)


def _check(case: Case, volume: NDArray[np.floating[Any]]) -> Volume:
    if volume.shape != case.grid.shape:
        raise InputError(f"picture of case {case.case_id}: dose has shape {volume.shape}, the grid {case.grid.shape}")
    if not np.isfinite(volume).all():
        raise InputError(f"picture of case {case.case_id}: dose is not finite everywhere")
    return np.ascontiguousarray(volume, dtype=np.float32)


def _comparison(reference: Volume | None, dose: Volume, case: Case) -> list[_Column]:
    """Prediction alone, or reference | prediction | difference."""
    highest = [float(volume.max()) for volume in (reference, dose) if volume is not None][:1]
    top_gy = max([*highest, *(1.05 * gy for gy in case.prescriptions_gy.values())])
    dose_map = {"cmap": "viridis", "vmin": 0.0, "vmax": top_gy}

    def shown(name: str, volume: Volume, label: str) -> _Column:
        opacity = _wash_opacity(volume / top_gy)
        return _Column(name=name, volume=volume, opacity=opacity, colours=dose_map, label=label)

    if reference is None:
        return [shown("prediction", dose, "dose (Gy)")]
    difference = dose - reference
    limit_gy = _difference_limit_gy(difference[case.body])
    # Dark in the middle: where the doses agree the anatomy shows.
    difference_map = {"cmap": "berlin", "vmin": -limit_gy, "vmax": limit_gy}
    opacity = np.clip(1.6 * np.abs(difference) / limit_gy, 0, 0.9)
    last = _Column(
        name="prediction - reference", volume=difference, opacity=opacity, colours=difference_map,
        label="difference (Gy)", extend="both",
    )  # fmt: skip
    return [shown("reference", reference, ""), shown("prediction", dose, "dose (Gy)"), last]


def _figure(case: Case, doses: Volume, columns: Sequence[_Column], title: str) -> Figure:
    """``doses`` (1 or 2, z, y, x): the prediction, after the reference where there is one."""
    styles = _styles(case)
    planes = planes_through_target(case)
    width_mm = max(plane.width_mm for plane in planes)
    sheet = Sheet([plane.height_mm * PANEL / width_mm for plane in planes], len(columns))
    _draw_panels(sheet, planes, case, columns, styles)
    dvh = sheet.axes(sheet.dvh_left, TOP, DVH, sheet.height - TOP - LEGEND - 0.1)
    _draw_dvh(dvh, case, doses, styles, 1.03 * float(doses.max()))
    line = _dvh_line(case, doses[-1])
    if len(doses) == 2:
        line = _scores_line(score_case(case, torch.from_numpy(doses[1])))
    sheet.text(LEFT, 0.34, title, fontsize=15, fontweight="bold", va="center")
    sheet.text(LEFT, 0.62, line, fontsize=10.5, color="0.3", va="center")
    return sheet.figure


def _dvh_line(case: Case, dose: Volume) -> str:
    """D95 of each target in one line."""
    metrics = dvh_metrics(
        torch.from_numpy(dose[None]), {n: case.structures[n] for n in case.targets}, case.grid.voxel_cc
    )
    return "  ·  ".join(f"{name} {float(value):.1f} Gy" for name, value in metrics.items() if name.endswith("/D95"))


def _styles(case: Case) -> Styles:
    """Colour and marker of every structure that has a voxel: targets first, highest prescription first."""
    organs = dict(zip(OAR_NAMES, _ORGAN_STYLES, strict=True))
    free = [style for name, style in organs.items() if name not in case.structures] or list(_ORGAN_STYLES)
    others = [name for name in ORGANS if name in case.structures and name not in organs]
    organs |= {name: free[k % len(free)] for k, name in enumerate(others)}
    targets = {name: _TARGET_STYLES[i % len(_TARGET_STYLES)] for i, name in enumerate(case.targets)}
    return {
        name: style
        for name, style in (targets | organs).items()
        if name in case.structures and case.structures[name].any()
    }


def _scores_line(score: CaseScore) -> str:
    parts = [f"dose score {score.dose_score_gy:.2f} Gy"]
    if score.dvh_errors:
        parts.append(f"DVH score {float(np.mean(list(score.dvh_errors.values()))):.2f} Gy")
    parts.append(f"MAE where reference ≥ 5 Gy {score.mae_ref5_gy:.2f} Gy")
    return "  ·  ".join(parts)


def _draw_panels(
    sheet: Sheet, planes: Sequence[PageSlice], case: Case, columns: Sequence[_Column], styles: Styles
) -> None:
    width_mm = max(plane.width_mm for plane in planes)
    colours = {name: colour for name, (colour, _) in styles.items()}
    first = 0
    for column, shown in enumerate(columns):
        for row, plane in enumerate(planes):
            axes = sheet.panel(row, column)
            draw_anatomy(axes, plane, case)
            image = draw_wash(axes, plane, shown.volume, shown.opacity, **shown.colours)
            draw_contours(axes, plane, case, colours)
            dress(axes, plane, width_mm)
            if column == 0:
                axes.set_ylabel(plane.name, fontsize=11)
            if row == 0:
                axes.set_title(shown.name, fontsize=12, pad=5)
            if row == column == 0:
                draw_scale_bar(axes)
        if shown.label:
            sheet.colour_bar(image, first, column - first + 1, shown.label, shown.extend)
            first = column + 1


def _wash_opacity(fraction: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = WASH_FADE
    opacity: NDArray[np.float32] = WASH_OPACITY * np.clip((fraction - low) / (high - low), 0.0, 1.0)
    return opacity


def _difference_limit_gy(difference_gy: NDArray[np.float32]) -> float:
    """Symmetric colour limit that covers 99 % of the body's voxels, in steps of 5 Gy."""
    return 5.0 * max(1, math.ceil(float(np.percentile(np.abs(difference_gy), 99)) / 5.0))


def _draw_dvh(axes: Axes, case: Case, doses: Volume, styles: Styles, max_gy: float) -> None:
    """Cumulative DVHs: the prediction, dashed beside a reference (solid); the legend stands below the axes."""
    levels = torch.arange(0.0, max_gy, 0.1)
    for order, (name, (colour, marker)) in enumerate(styles.items()):
        mask = torch.from_numpy(np.ascontiguousarray(case.structures[name]))
        curves = 100 * dvh_curve(torch.from_numpy(doses), mask, levels).numpy()
        # Staggered, or the markers of structures that are covered alike would hide one another.
        markers: dict[str, Any] = {"marker": marker, "markevery": (20 + 9 * order, 110), "markersize": 5.5}
        if len(doses) == 1 or name not in case.cut_by_dose:  # a reference that ends within the organ has no DVH of it
            axes.plot(levels, curves[0], color=colour, linewidth=1.8, **markers)
        for prediction in curves[1:]:
            axes.plot(levels, prediction, color=colour, linewidth=1.6, linestyle=PREDICTION_DASHES)
    axes.set_xlim(0, max_gy)
    axes.set_ylim(0, 102)
    axes.set_title("dose-volume histograms", fontsize=12, pad=5)
    plain_axes(axes, "dose (Gy)", "volume (%)")
    handles = [Line2D([], [], color=c, marker=m, linewidth=1.8, label=name) for name, (c, m) in styles.items()]
    if len(doses) == 2:
        handles.append(Line2D([], [], color="0.2", linewidth=1.8, label="reference"))
        handles.append(Line2D([], [], color="0.2", linewidth=1.6, linestyle=PREDICTION_DASHES, label="prediction"))
    below = -LEGEND_GAP * axes.figure.dpi / axes.get_window_extent().height
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, below), ncols=3, frameon=False, fontsize=10)

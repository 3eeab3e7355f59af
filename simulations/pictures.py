"""Pictures of a run: one patient's dose and DVH, and curves over rounds; PNG, drawn without a display.

Colours are from Okabe and Ito (2008) and from perceptually uniform maps, and never the only cue: structures also differ
by marker, reference and prediction by line style.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from shared_model.anatomy import OAR_NAMES
from shared_model.case import Case, Volume
from shared_model.dosimetry import CaseScore, dvh_curve, score_case
from shared_model.errors import InputError
from simulations.slices import (
    Plane,
    draw_anatomy,
    draw_contours,
    draw_scale_bar,
    draw_wash,
    dress,
    planes_through_target,
)

DPI = 120
# Fractions of the highest dose between which the wash fades in: below, the anatomy shows alone.
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
_CURVE_STYLES = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#56B4E9", "P"),
    ("#000000", "X"),
)

# Inches: panels, then margins of the sheet and of the DVH.
_PANEL, _GAP, _LEFT, _TOP, _BOTTOM = 3.1, 0.05, 0.4, 1.0, 0.75
_DVH, _DVH_LEFT, _DVH_RIGHT, _DVH_LEAST, _LEGEND, _LEGEND_GAP = 5.6, 0.95, 0.25, 3.2, 2.0, 0.6

Styles = Mapping[str, tuple[str, str]]


class _Sheet:
    """A figure measured in inches from its top left corner, so that nothing overlaps whatever the anatomy's size."""

    def __init__(self, heights: Sequence[float]) -> None:
        self.heights = heights
        self.panels_bottom = _TOP + sum(heights) + _GAP * (len(heights) - 1)
        self.dvh_left = _LEFT + 3 * (_PANEL + _GAP) + _DVH_LEFT
        self.width = self.dvh_left + _DVH + _DVH_RIGHT
        # Flat anatomy must not press the DVH flat.
        self.height = max(self.panels_bottom + _BOTTOM, _TOP + _DVH_LEAST + _LEGEND)
        self.figure = Figure(figsize=(self.width, self.height))

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes of this size at this place."""
        bottom = self.height - top - height
        box = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def panel(self, row: int, column: int) -> Axes:
        """The axes of one slice."""
        top = _TOP + sum(self.heights[:row]) + _GAP * row
        return self.axes(_LEFT + column * (_PANEL + _GAP), top, _PANEL, self.heights[row])

    def colour_bar(self, image: Any, first: int, columns: int, label: str, extend: str) -> None:
        """A horizontal bar under ``columns`` panels."""
        width = columns * _PANEL + (columns - 1) * _GAP
        left = _LEFT + first * (_PANEL + _GAP)
        axes = self.axes(left + 0.12 * width, self.panels_bottom + 0.14, 0.76 * width, 0.13)
        # The bar shows the pure colours: over the anatomy they are translucent.
        colours = ScalarMappable(norm=image.norm, cmap=image.cmap)
        bar = self.figure.colorbar(colours, cax=axes, orientation="horizontal", extend=extend, extendfrac=0.03)
        bar.set_label(label, fontsize=10, labelpad=2)
        bar.ax.tick_params(labelsize=9)

    def text(self, left: float, top: float, text: str, **options: Any) -> None:
        """Text at this place."""
        self.figure.text(left / self.width, 1 - top / self.height, text, **options)


def site_picture(path: Path, case: Case, dose_gy: NDArray[np.floating[Any]], title: str) -> None:
    """Writes ``site_figure`` as a PNG: the old picture or the whole new one stands at ``path``, never a part."""
    _save(site_figure(case, dose_gy, title), path)


def site_figure(case: Case, dose_gy: NDArray[np.floating[Any]], title: str) -> Figure:
    """One prediction ``dose_gy`` (z, y, x) in Gy beside the case's reference dose.

    Slices through the highest target's centroid, one scale in mm: reference | prediction | prediction - reference, with
    the structures' outlines; beside them the DVHs, and the case's scores under the title. ``title`` must name
    patients by pseudonym only. Raises InputError if the case has no reference dose, the shapes differ or the prediction
    is not finite.
    """
    if case.dose_gy is None:
        raise InputError(f"picture of case {case.case_id}: no reference dose to compare with")
    if dose_gy.shape != case.grid.shape:
        raise InputError(f"picture of case {case.case_id}: dose has shape {dose_gy.shape}, the grid {case.grid.shape}")
    dose = np.ascontiguousarray(dose_gy, dtype=np.float32)
    score = score_case(case, torch.from_numpy(dose))
    styles = _styles(case)
    planes = planes_through_target(case)
    width_mm = max(plane.width_mm for plane in planes)
    sheet = _Sheet([plane.height_mm * _PANEL / width_mm for plane in planes])
    _draw_panels(sheet, planes, case, np.stack([case.dose_gy, dose]), styles)
    max_gy = 1.03 * float(max(case.dose_gy.max(), dose.max()))
    dvh = sheet.axes(sheet.dvh_left, _TOP, _DVH, sheet.height - _TOP - _LEGEND - 0.1)
    _draw_dvh(dvh, case, np.stack([case.dose_gy, dose]), styles, max_gy)
    sheet.text(_LEFT, 0.34, title, fontsize=15, fontweight="bold", va="center")
    sheet.text(_LEFT, 0.62, _scores_line(score), fontsize=10.5, color="0.3", va="center")
    return sheet.figure


def _styles(case: Case) -> Styles:
    """Colour and marker of every structure that has a voxel: targets first, highest prescription first."""
    organs = dict(zip(OAR_NAMES, _ORGAN_STYLES, strict=True))
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


def _draw_panels(sheet: _Sheet, planes: Sequence[Plane], case: Case, doses: Volume, styles: Styles) -> None:
    reference, dose = doses
    width_mm = max(plane.width_mm for plane in planes)
    colours = {name: colour for name, (colour, _) in styles.items()}
    top_gy = max([float(reference.max()), *(1.05 * gy for gy in case.prescriptions_gy.values())])
    difference = dose - reference
    limit_gy = _difference_limit_gy(difference[case.body])
    dose_map = {"cmap": "viridis", "vmin": 0.0, "vmax": top_gy}
    # Dark in the middle: where the doses agree the anatomy shows.
    difference_map = {"cmap": "berlin", "vmin": -limit_gy, "vmax": limit_gy}
    columns = (
        ("reference", reference, _wash_opacity(reference / top_gy), dose_map),
        ("prediction", dose, _wash_opacity(dose / top_gy), dose_map),
        ("prediction - reference", difference, np.clip(1.6 * np.abs(difference) / limit_gy, 0, 0.9), difference_map),
    )
    for column, (name, volume, opacity, colour_map) in enumerate(columns):
        for row, plane in enumerate(planes):
            axes = sheet.panel(row, column)
            draw_anatomy(axes, plane, case)
            image = draw_wash(axes, plane, volume, opacity, **colour_map)
            draw_contours(axes, plane, case, colours)
            dress(axes, plane, width_mm)
            if column == 0:
                axes.set_ylabel(plane.name, fontsize=11)
            if row == 0:
                axes.set_title(name, fontsize=12, pad=5)
            if row == column == 0:
                draw_scale_bar(axes)
        if column == 1:
            sheet.colour_bar(image, 0, 2, "dose (Gy)", "max")
    sheet.colour_bar(image, 2, 1, "difference (Gy)", "both")


def _wash_opacity(fraction: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = WASH_FADE
    opacity: NDArray[np.float32] = WASH_OPACITY * np.clip((fraction - low) / (high - low), 0.0, 1.0)
    return opacity


def _difference_limit_gy(difference_gy: NDArray[np.float32]) -> float:
    """Symmetric colour limit that covers 99 % of the body's voxels, in steps of 5 Gy."""
    return 5.0 * max(1, math.ceil(float(np.percentile(np.abs(difference_gy), 99)) / 5.0))


def _draw_dvh(axes: Axes, case: Case, doses: Volume, styles: Styles, max_gy: float) -> None:
    """Cumulative DVHs of (reference, prediction), solid and dashed; the legend stands below the axes."""
    levels = torch.arange(0.0, max_gy, 0.1)
    for order, (name, (colour, marker)) in enumerate(styles.items()):
        mask = torch.from_numpy(np.ascontiguousarray(case.structures[name]))
        reference, prediction = 100 * dvh_curve(torch.from_numpy(doses), mask, levels).numpy()
        # Staggered, or the markers of structures that are covered alike would hide one another.
        markers: dict[str, Any] = {"marker": marker, "markevery": (20 + 9 * order, 110), "markersize": 5.5}
        axes.plot(levels, reference, color=colour, linewidth=1.8, **markers)
        axes.plot(levels, prediction, color=colour, linewidth=1.6, linestyle=PREDICTION_DASHES)
    axes.set_xlim(0, max_gy)
    axes.set_ylim(0, 102)
    axes.set_title("dose-volume histograms", fontsize=12, pad=5)
    _plain(axes, "dose (Gy)", "volume (%)")
    handles = [Line2D([], [], color=c, marker=m, linewidth=1.8, label=name) for name, (c, m) in styles.items()]
    handles.append(Line2D([], [], color="0.2", linewidth=1.8, label="reference"))
    handles.append(Line2D([], [], color="0.2", linewidth=1.6, linestyle=PREDICTION_DASHES, label="prediction"))
    below = -_LEGEND_GAP * axes.figure.dpi / axes.get_window_extent().height
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, below), ncols=3, frameon=False, fontsize=10)


def _plain(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set_xlabel(xlabel, fontsize=11)
    axes.set_ylabel(ylabel, fontsize=11)
    axes.tick_params(labelsize=10)
    axes.grid(color="0.88", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def curves_picture(
    path: Path, curves: Mapping[str, Sequence[tuple[float, float]]], xlabel: str, ylabel: str, title: str = ""
) -> None:
    """Writes a PNG of named curves, each a sequence of (x, y) points; not a number leaves a gap.

    The legend stands outside, in the order of ``curves``. Raises InputError if there is no point at all.
    """
    if not any(curves.values()):
        raise InputError(f"picture {path.name}: no point in any curve; expected at least one")
    figure = Figure(figsize=(8.6, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for order, (name, points) in enumerate(curves.items()):
        colour, marker = _CURVE_STYLES[order % len(_CURVE_STYLES)]
        # More curves than colours: the second lot is dashed.
        line = "-" if order < len(_CURVE_STYLES) else "--"
        x, y = zip(*points, strict=True) if points else ((), ())
        every = max(1, len(points) // 12)
        axes.plot(x, y, line, color=colour, marker=marker, markevery=every, markersize=5.5, linewidth=1.8, label=name)
    axes.margins(x=0.02, y=0.08)
    if all(float(x).is_integer() for points in curves.values() for x, _ in points):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _plain(axes, xlabel, ylabel)
    if title:
        axes.set_title(title, fontsize=13, fontweight="bold", loc="left")
    figure.legend(loc="outside right upper", frameon=False, fontsize=10)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """Whole or not at all: a picture that is still being drawn never stands under its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        figure.savefig(part, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)

"""Pictures of scorecard work as PNG bytes: curves of an alignment; one patient's doses and DVHs side by side."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from shared_model.patient.case import Case
from shared_model.scoring.dosimetry import dvh_curve

# Okabe and Ito (2008); each plan has a line style of its own too.
_STRUCTURES = (
    "#D55E00",
    "#E69F00",
    "#B8A800",
    "#0072B2",
    "#56B4E9",
    "#009E73",
    "#66C2A5",
    "#CC79A7",
    "#9467BD",
    "#8C8C8C",
)
_STYLES = ("-", "--", ":", "-.", (0, (1, 3)))
DPI = 90


def curves_png(history: Sequence[Mapping[str, float]]) -> bytes:
    """Reward of the candidates, held-back score and mean absolute error, by epoch."""
    figure = Figure(figsize=(10.5, 2.9), layout="constrained")
    panels = (
        ("reward", "mean raw reward (points)"),
        ("score", "held-back score"),
        ("mae_ref5_gy", "held-back MAE (Gy)"),
    )
    for axes, (key, label) in zip(np.ravel(figure.subplots(1, 3)), panels, strict=True):
        rows = [(entry["epoch"], entry[key]) for entry in history if key in entry]
        axes.plot([x for x, _ in rows], [y for _, y in rows], "o-", color="#0072B2", markersize=3)
        axes.set_xlabel("epoch")
        axes.set_title(label, fontsize=10)
        axes.grid(alpha=0.3)
    return _png(figure)


def plans_png(case: Case, plans: Mapping[str, NDArray[np.floating[Any]]], structures: Sequence[str]) -> bytes:
    """The slice through the highest target's middle under each plan, one dose scale, and the DVHs of ``structures``.

    ``plans``: name -> dose (z, y, x) in Gy; the first is drawn solid.
    """
    figure = Figure(figsize=(4.0 * len(plans) + 6.0, 4.2), layout="constrained")
    grid = figure.add_gridspec(1, len(plans) + 1, width_ratios=[1.0] * len(plans) + [1.5])
    target = case.structures[case.targets[0]] if case.targets else case.body
    z = int(np.round(np.nonzero(target)[0].mean()))
    top = max(float(dose.max()) for dose in plans.values())
    _, dy, dx = case.grid.spacing_mm
    image = None
    for n, (name, dose) in enumerate(plans.items()):
        axes = figure.add_subplot(grid[0, n])
        image = axes.imshow(np.where(case.body[z], dose[z], np.nan), cmap="inferno", vmin=0, vmax=top, aspect=dy / dx)
        for colour, structure in zip(_STRUCTURES, structures, strict=False):
            if case.structures[structure][z].any():
                axes.contour(case.structures[structure][z], [0.5], colors=colour, linewidths=1.0)
        axes.set_title(name, fontsize=11)
        axes.set_axis_off()
    if image is not None:
        figure.colorbar(image, ax=figure.axes, label="dose (Gy)", location="bottom", shrink=0.4, pad=0.02)
    _dvh_axes(figure.add_subplot(grid[0, len(plans)]), case, plans, structures, top)
    return _png(figure)


def _dvh_axes(
    axes: Any, case: Case, plans: Mapping[str, NDArray[np.floating[Any]]], structures: Sequence[str], top: float
) -> None:
    levels = torch.linspace(0.0, top, 200)
    for style, (name, dose) in zip(_STYLES, plans.items(), strict=False):
        volume = torch.from_numpy(np.asarray(dose, dtype=np.float32))[None]
        for colour, structure in zip(_STRUCTURES, structures, strict=False):
            curve = dvh_curve(volume, torch.from_numpy(case.structures[structure]), levels)[0]
            label = structure if style == _STYLES[0] else None
            axes.plot(levels, 100 * curve, linestyle=style, color=colour, linewidth=1.2, label=label)
        axes.plot([], [], linestyle=style, color="black", label=name)
    axes.set_xlabel("dose (Gy)")
    axes.set_ylabel("volume (%)")
    axes.set_ylim(0, 101)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="lower left")


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()

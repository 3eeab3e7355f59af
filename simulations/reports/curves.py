"""Curves of a run over rounds; PNG, drawn without a display. Pictures of one patient: client/reports/patient.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from client.reports.sheet import plain_axes, save_figure
from shared_model.core.errors import InputError

_CURVE_STYLES = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#56B4E9", "P"),
    ("#000000", "X"),
)


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
    plain_axes(axes, xlabel, ylabel)
    if title:
        axes.set_title(title, fontsize=13, fontweight="bold", loc="left")
    figure.legend(loc="outside right upper", frameon=False, fontsize=10)
    save_figure(figure, path)

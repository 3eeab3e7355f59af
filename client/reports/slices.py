"""Slices of a case through its target, drawn in mm in radiological orientation (the patient's right on the left)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from shared_model.patient.case import Case, Mask
from shared_model.patient.geometry import Grid

CT_WINDOW_HU = (-160.0, 240.0)
# The part shown: structures and every voxel that gets this fraction of the highest dose, with a margin.
SHOWN_FROM = 0.15
MARGIN_MM = 20.0

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class PageSlice:
    """One slice: the axis that it cuts and where, and how it lies on the page.

    ``extent_mm`` is the whole slice's (left, right, bottom, top), ``across_mm`` and ``up_mm`` the part that is shown,
    all from the grid's outer corner; ``letters`` stand at the left, right, top and bottom edge.
    """

    name: str
    cut_axis: int
    index: int
    extent_mm: tuple[float, float, float, float]
    across_mm: tuple[float, float]
    up_mm: tuple[float, float]
    letters: tuple[str, str, str, str]

    @property
    def height_mm(self) -> float:
        """Height of the part shown."""
        return abs(self.up_mm[1] - self.up_mm[0])

    @property
    def width_mm(self) -> float:
        """Width of the part shown."""
        return self.across_mm[1] - self.across_mm[0]

    def of(self, volume_zyx: Array) -> Array:
        """The slice, rows from the bottom of the page to its top."""
        found: Array = np.take(volume_zyx, self.index, axis=self.cut_axis)
        # y grows to posterior, which is drawn at the bottom.
        return found[::-1] if self.name == "axial" else found


def planes_through_target(case: Case) -> tuple[PageSlice, ...]:
    """Axial, coronal and sagittal slice through the centroid of the highest target (of the body without a target)."""
    shown = _visible_mask(case)
    z, y, x = (_span_mm(shown, case.grid, axis) for axis in range(3))
    depth, height, width = (n * s for n, s in zip(case.grid.shape, case.grid.spacing_mm, strict=True))
    cut = _centre(case)
    flipped = (height - y[1], height - y[0])
    return (
        PageSlice(name="axial", cut_axis=0, index=cut[0], extent_mm=(0, width, 0, height), across_mm=x, up_mm=flipped,
              letters=("R", "L", "A", "P")),
        PageSlice(name="coronal", cut_axis=1, index=cut[1], extent_mm=(0, width, 0, depth), across_mm=x, up_mm=z,
              letters=("R", "L", "S", "I")),
        PageSlice(name="sagittal", cut_axis=2, index=cut[2], extent_mm=(0, height, 0, depth), across_mm=y, up_mm=z,
              letters=("A", "P", "S", "I")),
    )  # fmt: skip


def _centre(case: Case) -> tuple[int, int, int]:
    targets = [case.structures[name] for name in case.targets if case.structures[name].any()]
    z, y, x = np.argwhere(targets[0] if targets else case.body).mean(axis=0)
    return round(float(z)), round(float(y)), round(float(x))


def _visible_mask(case: Case) -> Mask:
    shown = np.zeros_like(case.body)
    for mask in case.structures.values():
        shown |= mask
    if case.dose_gy is not None:
        shown |= case.dose_gy > SHOWN_FROM * case.dose_gy.max()
    return shown if shown.any() else case.body


def _span_mm(mask: Mask, grid: Grid, axis: int) -> tuple[float, float]:
    """Extent of the mask along an axis, with a margin, within the grid; from the grid's outer corner."""
    where = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
    step = grid.spacing_mm[axis]
    low, high = float(where[0]) * step - MARGIN_MM, float(where[-1] + 1) * step + MARGIN_MM
    return max(0.0, low), min(grid.shape[axis] * step, high)


def draw_anatomy(axes: Axes, plane: PageSlice, case: Case) -> None:
    """The CT in a soft tissue window, or the body's outline filled grey where there is no CT."""
    if case.ct_hu is not None:
        _draw(axes, plane, plane.of(case.ct_hu), cmap="gray", vmin=CT_WINDOW_HU[0], vmax=CT_WINDOW_HU[1])
    else:
        _draw(axes, plane, plane.of(case.body).astype(np.float32), cmap="gray", vmin=0.0, vmax=2.5)


def draw_wash(axes: Axes, plane: PageSlice, volume_zyx: Array, opacity_zyx: Array, **colours: Any) -> Any:
    """A colour wash over the anatomy; ``opacity_zyx`` in 0..1. Returns the image, for a colour bar."""
    return _draw(axes, plane, plane.of(volume_zyx), alpha=plane.of(opacity_zyx), **colours)


def _draw(axes: Axes, plane: PageSlice, image: Array, **options: Any) -> Any:
    return axes.imshow(
        image, origin="lower", extent=plane.extent_mm, interpolation="bilinear", aspect="auto", **options
    )


def draw_contours(axes: Axes, plane: PageSlice, case: Case, colours: Mapping[str, str]) -> None:
    """Outlines of the structures named in ``colours``; the first is drawn last, on top. Targets are thicker."""
    left, right, bottom, top = plane.extent_mm
    for name in reversed(list(colours)):
        mask = plane.of(case.structures[name])
        if not mask.any():
            continue
        # A border of nothing closes outlines at the edge of the grid.
        rows, columns = mask.shape
        step_y, step_x = (top - bottom) / rows, (right - left) / columns
        at_y = bottom + (np.arange(-1, rows + 1) + 0.5) * step_y
        at_x = left + (np.arange(-1, columns + 1) + 0.5) * step_x
        width = 1.5 if name in case.targets else 1.1
        lines = np.pad(mask.astype(float), 1)
        axes.contour(at_x, at_y, lines, levels=[0.5], colors=[colours[name]], linewidths=width)


def dress(axes: Axes, plane: PageSlice, width_mm: float) -> None:
    """Shows ``width_mm`` about the body's middle on black, without ticks, with the orientation at the edges."""
    middle = sum(plane.across_mm) / 2
    axes.set_xlim(middle - width_mm / 2, middle + width_mm / 2)
    axes.set_ylim(plane.up_mm)
    axes.set_facecolor("black")
    axes.set_xticks([])
    axes.set_yticks([])
    places = (
        (0.015, 0.5, "left", "center"),
        (0.985, 0.5, "right", "center"),
        (0.5, 0.97, "center", "top"),
        (0.5, 0.03, "center", "bottom"),
    )
    for letter, (x, y, ha, va) in zip(plane.letters, places, strict=True):
        _label(axes, x, y, letter, ha=ha, va=va, fontsize=9, fontweight="bold", transform=axes.transAxes)


def draw_scale_bar(axes: Axes, length_mm: float = 50.0) -> None:
    """A bar of a known length in the lower left corner; call after ``dress``."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x, y = left + 0.03 * (right - left), bottom + 0.07 * (top - bottom)
    outline = [withStroke(linewidth=3.5, foreground="black")]
    axes.plot([x, x + length_mm], [y, y], color="white", linewidth=2, path_effects=outline, solid_capstyle="butt")
    _label(
        axes, x + length_mm / 2, y + 0.03 * (top - bottom), f"{length_mm:g} mm", ha="center", va="bottom", fontsize=8
    )


def _label(axes: Axes, x: float, y: float, text: str, **options: Any) -> None:
    axes.text(x, y, text, color="white", path_effects=[withStroke(linewidth=2, foreground="black")], **options)

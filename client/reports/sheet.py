"""A page of panels and diagrams measured in inches, and how every picture is styled and written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from shared_model.core.files import ORDINARY, whole_file

DPI = 120
# Inches: panels, then margins of the sheet and of the DVH.
PANEL, GAP, LEFT, TOP, BOTTOM = 3.1, 0.05, 0.4, 1.0, 0.75
DVH, DVH_LEFT, DVH_RIGHT, DVH_LEAST, LEGEND, LEGEND_GAP = 5.6, 0.95, 0.25, 3.2, 2.0, 0.6


class Sheet:
    """A figure measured in inches from its top left corner, so that nothing overlaps whatever the anatomy's size."""

    def __init__(self, heights: Sequence[float], columns: int) -> None:
        self.heights = heights
        self.panels_bottom = TOP + sum(heights) + GAP * (len(heights) - 1)
        self.dvh_left = LEFT + columns * (PANEL + GAP) + DVH_LEFT
        self.width = self.dvh_left + DVH + DVH_RIGHT
        # Flat anatomy must not press the DVH flat.
        self.height = max(self.panels_bottom + BOTTOM, TOP + DVH_LEAST + LEGEND)
        self.figure = Figure(figsize=(self.width, self.height))

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes of this size at this place."""
        bottom = self.height - top - height
        box = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def panel(self, row: int, column: int) -> Axes:
        """The axes of one slice."""
        top = TOP + sum(self.heights[:row]) + GAP * row
        return self.axes(LEFT + column * (PANEL + GAP), top, PANEL, self.heights[row])

    def colour_bar(self, image: Any, first: int, columns: int, label: str, extend: str) -> None:
        """A horizontal bar under ``columns`` panels."""
        width = columns * PANEL + (columns - 1) * GAP
        left = LEFT + first * (PANEL + GAP)
        axes = self.axes(left + 0.12 * width, self.panels_bottom + 0.14, 0.76 * width, 0.13)
        # The bar shows the pure colours: over the anatomy they are translucent.
        colours = ScalarMappable(norm=image.norm, cmap=image.cmap)
        bar = self.figure.colorbar(colours, cax=axes, orientation="horizontal", extend=extend, extendfrac=0.03)
        bar.set_label(label, fontsize=10, labelpad=2)
        bar.ax.tick_params(labelsize=9)

    def text(self, left: float, top: float, text: str, **options: Any) -> None:
        """Text at this place."""
        self.figure.text(left / self.width, 1 - top / self.height, text, **options)


def plain_axes(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Label, grid and spines of a plain diagram."""
    axes.set_xlabel(xlabel, fontsize=11)
    axes.set_ylabel(ylabel, fontsize=11)
    axes.tick_params(labelsize=10)
    axes.grid(color="0.88", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Figure, path: Path, dpi: int = DPI) -> None:
    """Write a PNG, whole or not at all: ``path`` never holds a half-drawn picture."""
    with whole_file(path, ORDINARY) as stream:
        figure.savefig(stream, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})

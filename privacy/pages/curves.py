"""Curves as SVG paths, drawn where the page is made: the pages of both sides need no plotting library."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

WIDTH, HEIGHT = 320, 96
# As many points as a screen of this width can show; of more, each group shows its least and its largest.
_MOST = 160


@dataclass
class Curve:
    """Values by round or epoch. One that is told twice keeps its last value; what is not finite is left out."""

    numbers: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, number: int, value: float) -> None:
        """Add a point. Those from ``number`` on that are there already were taken back, and go."""
        if not math.isfinite(value):
            return
        while self.numbers and self.numbers[-1] >= number:
            self.numbers.pop()
            self.values.pop()
        self.numbers.append(number)
        self.values.append(value)

    @property
    def last(self) -> str:
        """The newest value, as text."""
        return f"{self.values[-1]:.4g}" if self.values else ""

    @property
    def range(self) -> tuple[str, str]:
        """Least and largest value, as text."""
        return (f"{min(self.values):.4g}", f"{max(self.values):.4g}") if self.values else ("", "")

    def path(self) -> str:
        """Return the curve as the ``d`` of an SVG path in a box of WIDTH x HEIGHT."""
        points = self._thinned()
        if not points:
            return ""
        low, high = min(self.values), max(self.values)
        first, span = self.numbers[0], max(1, self.numbers[-1] - self.numbers[0])
        height = high - low or 1.0
        placed = [
            f"{(number - first) / span * WIDTH:.1f} {(high - value) / height * (HEIGHT - 8) + 4:.1f}"
            for number, value in points
        ]
        return "M" + "L".join(placed) + (f"h{WIDTH / 50}" if len(placed) == 1 else "")

    def _thinned(self) -> list[tuple[int, float]]:
        points = list(zip(self.numbers, self.values, strict=True))
        if len(points) <= _MOST:
            return points
        size = math.ceil(2 * len(points) / _MOST)
        kept: list[tuple[int, float]] = []
        for start in range(0, len(points), size):
            group = points[start : start + size]
            low, high = min(group, key=lambda p: p[1]), max(group, key=lambda p: p[1])
            kept += sorted({low, high})
        return kept

"""Compare a patient with the adapter's training patients, and refuse one who is too different from them.

The adapter's card holds ranges of what can be measured of a Case (key ``trained_on``). Each goes from the 1st to the
99th percentile, so that it does not reveal an extreme patient. Sites never send ranges. Whoever makes the card takes
them from cohorts that they can see themselves (docs/decisions/0040-envelope.md), or from noised counts of all sites
together (envelope_counts.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from shared_model.bundled import DEFAULT_ADAPTER
from shared_model.core.errors import InputError
from shared_model.patient.anatomy import ORGANS, sites_of
from shared_model.patient.case import Case, Mask

# A value beyond the range widened by this factor is refused. A value outside the range but within this gives a note.
FAR = 1.25
Range = tuple[float, float]


def _volume_cc(case: Case, mask: Mask) -> float:
    return float(mask.sum()) * case.grid.voxel_cc


def _targets_cc(case: Case) -> float:
    return _volume_cc(case, case.ptv_gy() > 0)


def _extent_mm(case: Case) -> float:
    """Length of the body along z."""
    where = np.flatnonzero(case.body.any(axis=(1, 2)))
    return float(where[-1] - where[0] + 1) * case.grid.spacing_mm[0]


# What is measured: key -> (function of a case, name and unit for people).
MEASURES: Mapping[str, tuple[Callable[[Case], float], str]] = {
    "prescription_gy": (lambda case: max(case.prescriptions_gy.values()), "highest prescription, Gy"),
    "targets_cc": (_targets_cc, "volume of all targets, cc"),
    "body_cc": (lambda case: _volume_cc(case, case.body), "volume of the body on the images, cc"),
    "length_mm": (_extent_mm, "length of the body on the images, mm"),
    "slice_mm": (lambda case: case.grid.spacing_mm[0], "distance of slices, mm"),
    "pixel_mm": (lambda case: max(case.grid.spacing_mm[1:]), "size of pixels, mm"),
}


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """Ranges over the training patients.

    ``organs``: the known organs that at least one patient had. ``least_organs``: all but 1% of the patients had at
    least this many of the known organs. ``ranges``: key of MEASURES -> (low, high).
    """

    patients: int
    organs: tuple[str, ...]
    least_organs: int
    ranges: Mapping[str, Range]

    @classmethod
    def measure(cls, cases: Iterable[Case]) -> Envelope:
        """Measure the patients that have targets, one case in memory at a time. InputError if there is none."""
        rows: list[list[float]] = []
        organs: set[str] = set()
        counts: list[int] = []
        for case in cases:
            if not case.targets:
                continue
            rows.append([of(case) for of, _ in MEASURES.values()])
            here = organs_of(case)
            organs.update(here)
            counts.append(len(here))
        if not rows:
            raise InputError("envelope: no patient with a target; expected the training cohort")
        low, high = np.percentile(np.array(rows), [1, 99], axis=0)
        ranges = {key: (_round(low[k]), _round(high[k])) for k, key in enumerate(MEASURES)}
        least = int(np.percentile(counts, 1))
        return cls(patients=len(rows), organs=tuple(sorted(organs)), least_organs=least, ranges=ranges)

    def record(self) -> dict[str, Any]:
        """The content of the card's key ``trained_on``."""
        return asdict(self)

    @classmethod
    def of_bundled(cls) -> Envelope:
        """The ranges of the adapter that ships with the package, without loading its parameters or any network.

        InputError if its card names none: the installation is damaged.
        """
        path = DEFAULT_ADAPTER.with_suffix(".json")
        try:
            found = cls.from_card(json.loads(path.read_bytes()))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({type(error).__name__}); install fedkt3d again") from error
        if found is None:
            raise InputError(f"{path}: names no training ranges; install fedkt3d again")
        return found

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> Envelope | None:
        """Read the ranges in an adapter's card. None if the card has none; InputError if they cannot be read."""
        raw = card.get("trained_on")
        if raw is None:
            return None
        try:
            ranges = {str(key): (float(low), float(high)) for key, (low, high) in raw["ranges"].items()}
            organs = tuple(str(name) for name in raw["organs"])
            return cls(
                patients=int(raw["patients"]), organs=organs, least_organs=int(raw["least_organs"]), ranges=ranges
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError("card: key trained_on cannot be read; expected what `simulate run` writes") from error

    def factors(self, case: Case) -> tuple[int, int, int]:
        """How many of the case's voxels (z, y, x) make one voxel of the size in the middle of training's range."""
        wanted = [self.ranges.get(key) for key in ("slice_mm", "pixel_mm", "pixel_mm")]
        found = [
            1 if pair is None else max(1, round(math.sqrt(pair[0] * pair[1]) / mm))
            for pair, mm in zip(wanted, case.grid.spacing_mm, strict=True)
        ]
        return found[0], found[1], found[2]

    def judge(self, case: Case) -> EnvelopeVerdict:
        """Compare one case with the ranges."""
        if not case.targets:
            return EnvelopeVerdict(
                refusals=("no target (PTV): nothing is prescribed, so no dose can be predicted",), notes=()
            )
        there = organs_of(case)
        refusals, notes = self._body_site(there)
        here = sorted(set(there) & set(self.organs))
        if len(here) < self.least_organs:
            found = ", ".join(here) or "none"
            refusals.append(
                f"organs: {found} of {', '.join(self.organs)}; training patients had at least {self.least_organs}:"
                " is this another body site, or are names unmapped?"
            )
        for key, (low, high) in self.ranges.items():
            if key not in MEASURES:
                continue
            of, what = MEASURES[key]
            value = of(case)
            text = f"{what}: {value:.4g}, in training {low:.4g} to {high:.4g}"
            if not low / FAR <= value <= high * FAR:
                refusals.append(text)
            elif not low <= value <= high:
                notes.append(text)
        notes += [f"no {name}: training patients had one" for name in _missing_volumes(case)]
        return EnvelopeVerdict(refusals=tuple(refusals), notes=tuple(notes))

    def _body_site(self, organs: list[str]) -> tuple[list[str], list[str]]:
        """A refusal where the organs are those of another site of the body; else a note on organs never seen."""
        own, found = sites_of(self.organs), sites_of(tuple(organs))
        unseen = ", ".join(name for name in organs if name not in self.organs)
        if own and found and not set(own) & set(found):
            text = f"site of the body: {', '.join(found)} ({unseen}); the training patients' was {', '.join(own)}"
            return [text], []
        return [], [
            f"organs that no training patient had, and that the dose does not spare: {unseen}"
        ] if unseen else []


@dataclass(frozen=True, kw_only=True)
class EnvelopeVerdict:
    """Texts for people. ``refusals``: values far outside training. ``notes``: values a little outside, or missing."""

    refusals: tuple[str, ...]
    notes: tuple[str, ...]


def organs_of(case: Case) -> list[str]:
    """The known organs that a case has, in the order of ORGANS."""
    return [name for name in ORGANS if name in case.structures and case.structures[name].any()]


def _missing_volumes(case: Case) -> list[str]:
    volumes = {"CT": case.ct_hu, "beam plate (RTPLAN)": case.beam_plate, "angle plate (RTPLAN)": case.angle_plate}
    return [name for name, volume in volumes.items() if volume is None]


def _round(value: float) -> float:
    return float(f"{value:.4g}")

"""From a structure set's names to what the model knows: organs by TG-263 name, targets by prescription, the body.

The site's file of rules (client/names/rules.py) comes first, then the plan, then the spelling. An uncertain name is not
used: the review table lists it as ambiguous or unmapped, for a physicist to decide.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from client.names.records import Prescription, Roi
from client.names.rules import NameRules
from client.names.tg263 import BODY, SKIN, begins_with_organ, suggestions, tg263_name, words
from shared_model.patient.anatomy import is_known, target_name

MAPPED, AMBIGUOUS, UNMAPPED, IGNORED = "mapped", "ambiguous", "unmapped", "ignored"

# Words that say that a structure was made from a target: a part of it, a ring about it, a helper for the optimiser.
_DERIVED = {
    "opt",
    "eval",
    "ring",
    "minus",
    "prv",
    "exp",
    "sub",
    "not",
    "crop",
    "dvh",
    "help",
    "avoid",
    "shell",
    "~",
    "+",
}
_RANKS = {"high": 0, "hi": 0, "low": -1, "lo": -1}
_LEVEL_RANGE_GY = (10.0, 100.0)
# 69.96 Gy may stand in a name as 70.
_SAME_GY = 0.5
# A number before one of these is not a dose level but a margin or a number of fractions.
_NOT_GY = {"mm", "cm", "fx", "fr"}

_NO_LEVEL = "target without one level; set prescriptions_gy in the site file"
_EXTERNAL = "type EXTERNAL"
PLAN_NOT_NAME = "plan: prescription of this structure, which is not the level in its name"


@dataclass(frozen=True, kw_only=True)
class NameRow:
    """One row of the review table. ``name`` is the record's own and may hold a person's name: for the site's screen.

    ``tg263`` is the name that it was given, empty for none; ``how`` says by what. ``used`` tells whether the model
    knows it. ``candidates`` are TG-263 names that look alike.
    """

    number: int
    name: str = field(repr=False)
    kind: str
    status: str
    tg263: str = ""
    how: str
    prescription_gy: float | None = None
    candidates: tuple[str, ...] = ()

    @property
    def used(self) -> bool:
        """Whether it becomes part of the Case."""
        return self.status == MAPPED and (self.tg263 == BODY or is_known(self.tg263))


def name_table(rois: Sequence[Roi], prescriptions: Sequence[Prescription], rules: NameRules) -> tuple[NameRow, ...]:
    """The review table of a structure set, in its own order."""
    rows = [_row(roi, prescriptions, rules) for roi in rois]
    return tuple(_one_each(_rank_targets(rows, prescriptions)))


def _row(roi: Roi, prescriptions: Sequence[Prescription], rules: NameRules) -> NameRow:
    def row(status: str, how: str, tg263: str = "", level_gy: float | None = None) -> NameRow:
        near = suggestions(roi.name) if status == UNMAPPED else ()
        return NameRow(
            number=roi.number,
            name=roi.name,
            kind=roi.kind,
            status=status,
            tg263=tg263,
            how=how,
            prescription_gy=level_gy,
            candidates=near,
        )

    if any(pattern.fullmatch(roi.name) for pattern in rules.ignore):
        return row(IGNORED, "site file: ignore")
    for pattern, level_gy in rules.prescriptions_gy:
        if pattern.fullmatch(roi.name):
            return row(MAPPED, "site file: prescription", target_name(level_gy), level_gy)
    for name, pattern in rules.names:
        if pattern.fullmatch(roi.name):
            return row(MAPPED, "site file: name", name)
    if _is_target(roi):
        return _target(roi, prescriptions, row)
    found = tg263_name(roi.name)
    if roi.kind == "EXTERNAL" and found in (None, BODY, SKIN):  # an organ Skin is a shell, and of another type
        return row(MAPPED, _EXTERNAL, BODY)
    if found is None:
        return row(UNMAPPED, "no TG-263 name")
    return row(MAPPED, "spelling" if found != roi.name else "TG-263", found)


def _is_target(roi: Roi) -> bool:
    return re.match(r"\W*ptv", roi.name, re.IGNORECASE) is not None or roi.kind == "PTV"


def _target_words(name: str) -> tuple[str, ...]:
    """Words of a target's name, what was written close to PTV apart from it."""
    return words(re.sub("ptv", " ptv ", name, flags=re.IGNORECASE))


def _is_derived(name: str, parts: Sequence[str]) -> bool:
    """Whether a target's name tells that it was made of one; also what it is left without: PTV56-PTV70, PTV70-CTV70."""
    minus_target = re.search(r"ptv.*-[\W_]*[cgp]tv", name, re.IGNORECASE) is not None
    return bool(_DERIVED & set(parts)) or parts.count("ptv") > 1 or minus_target


def _may_lack_organ(name: str) -> bool:
    """Whether a target's name ends in a hyphen and an organ: PTV70-Parotid may be without it, or lie in it."""
    for hyphen in re.finditer("-", name):
        before, after = _target_words(name[: hyphen.start()]), name[hyphen.end() :]
        told = _levels_gy(before) or _RANKS.keys() & set(before)
        if told and begins_with_organ(after) and not _levels_gy(words(after)):
            return True
    return False


def _target(roi: Roi, prescriptions: Sequence[Prescription], row: Callable[..., NameRow]) -> NameRow:
    """A target by the plan's prescription for this very structure, or else by the one level in its name."""
    ordered = {p.dose_gy for p in prescriptions if p.roi == roi.number}
    parts = _target_words(roi.name)
    levels = _levels_gy(parts)
    if len(ordered) == 1:
        (level_gy,) = ordered
        return _prescribed_row(level_gy, levels, prescriptions, row)
    if re.match(r"[\W_]*i?[cg]tv", roi.name, re.IGNORECASE):
        return row(IGNORED, "a CTV or GTV, not a PTV")
    if _is_derived(roi.name, parts):
        return row(IGNORED, "derived from a target")
    if _may_lack_organ(roi.name):
        return row(AMBIGUOUS, "a target minus an organ, or in it; set prescriptions_gy or ignore in the site file")
    if len(levels) == 1:
        (level_gy,) = levels
        near = {p.dose_gy for p in prescriptions if _same(p.dose_gy, level_gy)}
        (level_gy,) = near if len(near) == 1 else (level_gy,)  # the plan's own figure is the exact one
        return row(MAPPED, "level in the name", target_name(level_gy), level_gy)
    return row(AMBIGUOUS, _NO_LEVEL)


def _prescribed_row(
    level_gy: float, named: set[float], prescriptions: Sequence[Prescription], row: Callable[..., NameRow]
) -> NameRow:
    """A target that the plan prescribes ``level_gy`` to, with the levels in its name.

    If the name gives another level that the plan prescribes to no target, the plan is right: a phase of a treatment
    gives only a part of the level in its targets' names. If the name gives the level that the plan prescribes to
    another target, one of the two is wrong.
    """
    if not named or any(_same(level_gy, level) for level in named):
        return row(MAPPED, "plan: prescription of this structure", target_name(level_gy), level_gy)
    if any(_same(p.dose_gy, level) for p in prescriptions for level in named):
        return row(
            AMBIGUOUS,
            f"the plan prescribes {level_gy:g} Gy to it and the level in its name to another target; set"
            " prescriptions_gy in the site file",
        )
    return row(MAPPED, PLAN_NOT_NAME, target_name(level_gy), level_gy)


def _same(one_gy: float, other_gy: float) -> bool:
    return abs(one_gy - other_gy) < _SAME_GY


def _levels_gy(parts: Sequence[str]) -> set[float]:
    found = set()
    for part, following in zip(parts, (*parts[1:], ""), strict=True):
        if following in _NOT_GY:
            continue
        if re.fullmatch(r"\d{4}", part):
            level = float(part) / 100
        elif re.fullmatch(r"\d{2}(?:[.,p]\d+)?", part):
            level = float(re.sub("[,p]", ".", part))
        else:
            continue
        if _LEVEL_RANGE_GY[0] <= level <= _LEVEL_RANGE_GY[1]:
            found.add(level)
    return found


def _rank_targets(rows: list[NameRow], prescriptions: Sequence[Prescription]) -> list[NameRow]:
    """Targets called High and Low, or a single one, by the plan's prescriptions, where these are as many."""
    doses = sorted({p.dose_gy for p in prescriptions}, reverse=True)
    open_rows = [row for row in rows if row.how == _NO_LEVEL]
    taken = {row.prescription_gy for row in rows if row.status == MAPPED}
    out = []
    for row in rows:
        rank = next((_RANKS[word] for word in _target_words(row.name) if word in _RANKS), None)
        level_gy = None
        if row.how == _NO_LEVEL and len(open_rows) == 1 and len(doses) == 1:
            level_gy = doses[0]
        elif row.how == _NO_LEVEL and rank is not None and len(doses) > 1:
            level_gy = doses[rank]
        if level_gy is not None and level_gy not in taken:
            row = replace(
                row, status=MAPPED, tg263=target_name(level_gy), prescription_gy=level_gy, how="plan: prescription"
            )
        out.append(row)
    return out


def _one_each(rows: list[NameRow]) -> list[NameRow]:
    """If several structures got one name, keep only one: the one that the site or the plan named, that is of type
    EXTERNAL, or that is spelled as in TG-263. If that does not choose one, keep none."""
    by_name: dict[str, list[NameRow]] = defaultdict(list)
    for row in rows:
        if row.status == MAPPED:
            by_name[row.tg263].append(row)
    lost = set()
    for same in by_name.values():
        if len(same) > 1:
            sure = (
                [row for row in same if row.how.startswith(("site", "plan"))]
                or [row for row in same if row.how == _EXTERNAL]
                or [row for row in same if row.how == "TG-263"]
            )
            lost |= {row.number for row in same} - ({sure[0].number} if len(sure) == 1 else set())
    return [
        replace(row, status=AMBIGUOUS, how=f"several structures are called {row.tg263}; set ignore in the site file")
        if row.number in lost
        else row
        for row in rows
    ]

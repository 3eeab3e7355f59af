"""Which structures are targets, and their levels: by the plan's prescription, by the one level in a name, by rank.

A target that is lost without a word would be the worst of errors: its patient would be predicted for at the next lower
level. ``lost_targets`` names those that a patient must not be read without.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from client.names.records import Prescription, Roi
from client.names.rows import AMBIGUOUS, IGNORED, MAPPED, NameRow
from client.names.tg263 import begins_with_organ, is_plain, words
from shared_model.patient.anatomy import target_name

# Words that say that a structure was made from a target: a part of it, a ring about it, a helper for the optimiser, an
# older version.
_DERIVED = set(
    [
        "opt",
        "eval",
        "ring",
        "minus",
        "prv",
        "exp",
        "sub",
        "not",
        "crop",
        "cropped",
        "dvh",
        "help",
        "avoid",
        "shell",
        "old",
        "alt",
        "copy",
        "kopie",
        "backup",
        "bak",
        "cut",
        "trim",
        "trimmed",
        "ohne",
        "without",
        "sans",
        "wo",
        "less",
        "tmp",
        "temp",
        "test",
        "~",
        "+",
    ]
)
_RANKS = {"high": 0, "hi": 0, "low": -1, "lo": -1}
_LEVEL_RANGE_GY = (10.0, 100.0)
# 69.96 Gy may stand in a name as 70.
_SAME_GY = 0.5
# A number before one of these is not a dose level but a margin or a number of fractions.
_NOT_GY = {"mm", "cm", "fx", "fr"}
# Dose a fraction times fractions, and years, are no levels: PTV 1.8x39, PTV2024.
_FRACTIONS = re.compile(r"\d+(?:[.,]\d+)?\s*(?:gy)?\s*[x*]\s*\d+(?:[.,]\d+)?", re.IGNORECASE)
_YEARS = re.compile(r"(?:199\d|20(?:0[1-9]|[1-9]\d))")

_NO_LEVEL = "target without one level; set prescriptions_gy in the site file"
_ODD = (
    "a target's name holds other characters than letters, digits and separators; set prescriptions_gy in the site file"
)
PLAN_NOT_NAME = "plan: prescription of this structure, which is not the level in its name"
_BY_HAND = "; set prescriptions_gy, or ignore, in the site's file of names"


def is_target_name(name: str) -> bool:
    """Whether a name begins like a target's, also after z or x, which mark a helper of one."""
    return re.match(r"[\W_]*[zx]{0,2}[\W_]*ptv", name, re.IGNORECASE) is not None


def _target_words(name: str) -> tuple[str, ...]:
    """Words of a target's name, what was written close to PTV apart from it; without doses and numbers of fractions."""
    return words(_FRACTIONS.sub(" ", re.sub("ptv", " ptv ", name, flags=re.IGNORECASE)))


def _is_derived(name: str, parts: Sequence[str]) -> bool:
    """Whether a target's name tells that it was made of one; also what it is left without: PTV56-PTV70, PTV70-CTV70."""
    minus_target = re.search(r"ptv.*-[\W_]*[cgp]tv", name, re.IGNORECASE) is not None
    helper = re.match(r"[\W_]*[zx]{1,2}[\W_]*ptv", name, re.IGNORECASE) is not None
    margin = re.search(r"\d\s*[mc]m(?![a-z])", name, re.IGNORECASE) is not None
    return bool(_DERIVED & set(parts)) or parts.count("ptv") > 1 or minus_target or helper or margin


def _may_lack_organ(name: str) -> bool:
    """Whether a target's name ends in a hyphen and an organ: PTV70-Parotid may be without it, or lie in it."""
    for hyphen in re.finditer("-", name):
        before, after = _target_words(name[: hyphen.start()]), name[hyphen.end() :]
        told = _levels_gy(before) or _RANKS.keys() & set(before)
        if told and begins_with_organ(after) and not _levels_gy(words(after)):
            return True
    return False


def target_row(roi: Roi, prescriptions: Sequence[Prescription], row: Callable[..., NameRow]) -> NameRow:
    """A target's row: by the plan's prescription for this very structure, or else by the one level in its name."""
    ordered = {p.dose_gy for p in prescriptions if p.roi == roi.number}
    parts = _target_words(roi.name)
    levels = _levels_gy(parts)
    if len(ordered) == 1:
        (level_gy,) = ordered
        return _prescribed_row(level_gy, levels, prescriptions, row)
    named = next(iter(levels)) if len(levels) == 1 else None
    if re.match(r"[\W_]*i?[cg]tv", roi.name, re.IGNORECASE):
        return row(IGNORED, "a CTV or GTV, not a PTV")
    if not is_plain(roi.name):
        return row(AMBIGUOUS, _ODD, "", named)
    if _may_lack_organ(roi.name):
        how = "a target minus an organ, or in it; set prescriptions_gy or ignore in the site file"
        return row(AMBIGUOUS, how, "", named)
    if _is_derived(roi.name, parts):
        return row(IGNORED, "derived from a target", "", named)
    if named is not None:
        near = {p.dose_gy for p in prescriptions if _same(p.dose_gy, named)}
        (level_gy,) = near if len(near) == 1 else (named,)  # the plan's own figure is the exact one
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
            "",
            level_gy,
        )
    return row(MAPPED, PLAN_NOT_NAME, target_name(level_gy), level_gy)


def _same(one_gy: float, other_gy: float) -> bool:
    return abs(one_gy - other_gy) < _SAME_GY


def _levels_gy(parts: Sequence[str]) -> set[float]:
    found = set()
    for at, part in enumerate(parts):
        if parts[at + 1 : at + 2] and parts[at + 1] in _NOT_GY:
            continue
        if _YEARS.fullmatch(part):
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


def to_volumes(prescriptions: Sequence[Prescription]) -> list[Prescription]:
    """Prescriptions to volumes and sites; those to points only where there are no others."""
    return [p for p in prescriptions if not p.point] or list(prescriptions)


def rank_targets(rows: list[NameRow], prescriptions: Sequence[Prescription]) -> list[NameRow]:
    """Give a level to targets called High and Low, or to a single one, by those prescriptions of the plan that belong
    to no other target, where these are as many. Doses of single beams, which some systems list too, are more."""
    taken = {row.prescription_gy for row in rows if row.status == MAPPED}
    free = [
        p.dose_gy for p in to_volumes(prescriptions) if not any(g is not None and _same(p.dose_gy, g) for g in taken)
    ]
    open_rows = [row for row in rows if row.how == _NO_LEVEL]
    ranked = [row for row in open_rows if _rank(row) is not None]
    out = []
    for row in rows:
        level_gy, rank = None, _rank(row)
        if row.how == _NO_LEVEL and len(open_rows) == 1 and len(set(free)) == 1:
            level_gy = free[0]
        elif row.how == _NO_LEVEL and rank is not None and len(free) == len(ranked) == len(set(free)):
            level_gy = sorted(free, reverse=True)[rank]
        if level_gy is not None:
            row = replace(
                row, status=MAPPED, tg263=target_name(level_gy), prescription_gy=level_gy, how="plan: prescription"
            )
        out.append(row)
    return out


def _rank(row: NameRow) -> int | None:
    return next((_RANKS[word] for word in _target_words(row.name) if word in _RANKS), None)


def lost_targets(
    rows: Sequence[NameRow], prescriptions: Sequence[Prescription], faults: Mapping[int, str], drawn: set[int]
) -> tuple[list[str], list[str]]:
    """Why a patient must not be read, and notes on lower targets that are not used; both without names.

    ``faults`` says by number why a structure cannot be used, ``drawn`` which have contours. Lost are a target that the
    plan prescribes to, one whose level is above all that are used, one of unknown level where no prescription tells the
    highest, and the plan's highest level if no target has it. What the site's file says is a person's decision.
    """

    def sound(row: NameRow) -> bool:
        return row.used and row.number in drawn and row.number not in faults

    levels = {row.prescription_gy for row in rows if row.prescription_gy is not None and sound(row)}
    highest = max(levels, default=0.0)
    lost, notes = [], []
    for row in rows:
        if not row.target or sound(row) or row.how.startswith("site file: ignore"):
            continue
        level, named = row.prescription_gy, "" if row.prescription_gy is None else f" of {row.prescription_gy:g} Gy"
        empty = row.number not in drawn and row.number not in faults
        why = "it has no contours" if empty and row.status == MAPPED else faults.get(row.number, row.how)
        text = f"a target{named} is not used: {why}{'' if '; ' in why else _BY_HAND}"
        if any(p.roi == row.number for p in prescriptions):
            lost.append(text)
        elif level is None:
            if levels and row.status == AMBIGUOUS and not empty and not prescriptions:
                lost.append(text)
        elif not any(_same(level, other) for other in levels):
            if (level > highest and not (empty and prescriptions)) or row.number in faults:
                lost.append(text)
            elif row.status != IGNORED:
                notes.append(text)
    return lost or _without_highest(rows, prescriptions, levels), notes


def _without_highest(rows: Sequence[NameRow], prescriptions: Sequence[Prescription], levels: set[float]) -> list[str]:
    """The plan's highest level, if no target has it and no rule of the site's file decides on a target."""
    if not prescriptions or any(row.target and row.how.startswith("site file") for row in rows):
        return []
    top = max(p.dose_gy for p in to_volumes(prescriptions))
    if any(_same(top, level) for level in levels):
        return []
    return [f"the plan prescribes {top:g} Gy and no target of that level can be used{_BY_HAND}"]

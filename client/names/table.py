"""From a structure set's names to what the model knows: organs by TG-263 name, targets by prescription, the body.

The site's file of rules (client/names/rules.py) comes first, then the plan, then the spelling. An uncertain name is not
used: the review table lists it as ambiguous or unmapped, for a physicist to decide.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from client.names.records import Prescription, Roi
from client.names.rows import AMBIGUOUS, IGNORED, MAPPED, UNMAPPED, NameRow
from client.names.rules import NameRules
from client.names.targets import is_target_name, rank_targets, target_row
from client.names.tg263 import BODY, SKIN, suggestions, tg263_name
from shared_model.patient.anatomy import is_target, target_name

_EXTERNAL = "type EXTERNAL"


def name_table(rois: Sequence[Roi], prescriptions: Sequence[Prescription], rules: NameRules) -> tuple[NameRow, ...]:
    """The review table of a structure set, in its own order. A structure whose number is another's too is ambiguous."""
    rows = [_row(roi, prescriptions, rules) for roi in rois]
    drawn = {roi.number for roi in rois if len(roi.counts)}
    return tuple(_one_each(rank_targets(rows, prescriptions), drawn, rules))


def _row(roi: Roi, prescriptions: Sequence[Prescription], rules: NameRules) -> NameRow:
    target = is_target_name(roi.name) or roi.kind == "PTV"

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
            target=target or is_target(tg263),
        )

    if any(pattern.fullmatch(roi.name) for pattern in rules.ignore):
        return row(IGNORED, "site file: ignore")
    if roi.shared_number:
        return row(AMBIGUOUS, "its ROINumber is another structure's too; give each a number of its own")
    for pattern, level_gy in rules.prescriptions_gy:
        if pattern.fullmatch(roi.name):
            return row(MAPPED, "site file: prescription", target_name(level_gy), level_gy)
    for name, pattern in rules.names:
        if pattern.fullmatch(roi.name):
            return row(MAPPED, "site file: name", name)
    if target:
        return target_row(roi, prescriptions, row)
    found = tg263_name(roi.name)
    if roi.kind == "EXTERNAL" and found in (None, BODY, SKIN):  # an organ Skin is a shell, and of another type
        return row(MAPPED, _EXTERNAL, BODY)
    if found is None:
        return row(UNMAPPED, "no TG-263 name")
    return row(MAPPED, "spelling" if found != roi.name else "TG-263", found)


def _one_each(rows: list[NameRow], drawn: set[int], rules: NameRules) -> list[NameRow]:
    """If several structures got one name, keep only one: the one that the site or the plan named, that is of type
    EXTERNAL, that is spelled as in TG-263, or that alone is drawn. If that does not choose one, keep none; but keep all
    targets that the site's file unites."""
    by_name: dict[str, list[NameRow]] = defaultdict(list)
    for row in rows:
        if row.status == MAPPED:
            by_name[row.tg263].append(row)
    lost: set[int] = set()
    for same in by_name.values():
        if len(same) < 2 or (is_target(same[0].tg263) and all(_is_united(row, rules) for row in same)):
            continue
        sure = (
            [row for row in same if row.how.startswith(("site", "plan"))]
            or [row for row in same if row.how == _EXTERNAL]
            or [row for row in same if row.how == "TG-263"]
        )
        if len(sure) != 1:
            sure = [row for row in (sure or same) if row.number in drawn]
        lost |= {row.number for row in same} - ({sure[0].number} if len(sure) == 1 else set())
    return [replace(row, status=AMBIGUOUS, how=_several(row)) if row.number in lost else row for row in rows]


def _is_united(row: NameRow, rules: NameRules) -> bool:
    return any(pattern.fullmatch(row.name) for pattern in rules.unite)


def _several(row: NameRow) -> str:
    if row.target:
        return f"several targets are {row.tg263}; set unite for all of them, or ignore, in the site's file of names"
    return f"several structures are called {row.tg263}; set ignore in the site file"

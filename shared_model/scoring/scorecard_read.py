"""Read scorecard files: YAML of schema ``rt-scorecard/2``, or ``/1``, which has fewer keys.

Every error names the file, the line and the wrong key, what was expected there and what to do.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from shared_model.core.errors import InputError
from shared_model.core.located import Located, parse_located, read_located
from shared_model.scoring.metric import MAX_GY, OF_ISODOSE, Metric
from shared_model.scoring.regions import BODY, Region, is_structure_name, is_target_name
from shared_model.scoring.scorecard import REDUCTIONS, Criterion, Scorecard

SCHEMAS = ("rt-scorecard/1", "rt-scorecard/2")
MAX_RING_MM = 500.0
MAX_WEIGHT = 1e6
_TOP = ("schema", "name", "institution", "prescription_gy", "fractions", "missing_structure", "metrics")
_CRITERION = ("id", "structure", "reduce", "metric", "unit", "direction", "goal", "limit", "weight", "points", "source")
# Only in version 2 of the format.
_NEW_TOP = ("version", "site", "description")
_NEW_CRITERION = ("constraint", "prescription")
# Structure names of the data set that version 1 was written for.
_OLD_NAMES = {"RightParotid": "Parotid_R", "LeftParotid": "Parotid_L", "Mandible": "Bone_Mandible"}
_OLD_TARGET = re.compile(r"PTV(\d{2})")


def read_scorecard(path: Path) -> Scorecard:
    """Read the scorecard in the YAML file ``path``. InputError names the wrong line."""
    return scorecard(read_located(path))


def parse_scorecard(text: str, file: str = "scorecard") -> Scorecard:
    """Read the scorecard in a YAML text. ``file`` names the text in errors."""
    return scorecard(parse_located(text, file))


def scorecard(top: Located) -> Scorecard:
    """Make the scorecard from a document that was read. InputError names the wrong line."""
    keys = top.mapping(required=("schema", "name", "metrics"))
    schema = keys["schema"].text()
    if schema not in SCHEMAS:
        raise keys["schema"].error(f"{schema!r}: expected one of {', '.join(SCHEMAS)}")
    old = schema == SCHEMAS[0]
    keys = top.mapping(_TOP if old else (*_TOP, *_NEW_TOP), () if old else ("version",))
    missing = keys.get("missing_structure")
    if missing is not None and missing.text() != "drop":
        raise missing.error("expected drop: a criterion whose structure is absent does not count")
    lines = keys["metrics"].items()
    criteria = [_criterion(line, old) for line in lines]
    if not criteria:
        raise keys["metrics"].error("no criterion; expected at least one")
    _check_together(lines, criteria)
    prescriptions = keys["prescription_gy"].mapping() if "prescription_gy" in keys else {}
    return Scorecard(
        schema=schema,
        name=keys["name"].text(),
        version=keys["version"].text() if "version" in keys else "1",
        institution=keys["institution"].text() if "institution" in keys else "",
        criteria=tuple(criteria),
        prescriptions_gy={_name(value, name, old): value.number(0.1, MAX_GY) for name, value in prescriptions.items()},
        sha256=hashlib.sha256(repr(criteria).encode()).hexdigest(),
    )


def _criterion(line: Located, old: bool) -> Criterion:
    known = _CRITERION if old else (*_CRITERION, *_NEW_CRITERION)
    keys = line.mapping(known, ("id", "structure", "metric", "unit", "direction", "weight", "points"))
    metric, unit = _metric(keys)
    higher = _choice(keys["direction"], ("higher", "lower")) == "higher"
    weight = keys["weight"].number(-MAX_WEIGHT, MAX_WEIGHT)
    if weight <= 0:
        raise keys["weight"].error(f"{weight:g}: expected a number above 0; leave the criterion out to ignore it")
    regions = _regions(keys["structure"], old)
    reduce = _choice(keys["reduce"], REDUCTIONS) if "reduce" in keys else "min"
    if len(regions) > 1 and "reduce" not in keys:
        raise keys["structure"].error(f"several structures need the key reduce; expected {', '.join(REDUCTIONS)}")
    if metric.kind in OF_ISODOSE and not all(is_target_name(r.structure) and r.to_mm is None for r in regions):
        raise keys["structure"].error(f"{metric.name} is of a target; expected a name like PTV_High")
    points = _points(keys["points"], metric.highest(unit), weight, higher)
    return Criterion(
        id=keys["id"].text(),
        regions=regions,
        reduce=reduce,
        metric=metric,
        unit=unit,
        higher=higher,
        weight=weight,
        points=points,
        goal=keys["goal"].number() if "goal" in keys else None,
        limit=keys["limit"].number() if "limit" in keys else None,
        constraint=_constraint(keys["constraint"], metric.highest(unit), higher) if "constraint" in keys else None,
        prescription=_prescription(keys["prescription"]) if "prescription" in keys else None,
        source=keys["source"].text() if "source" in keys else "",
    )


def _metric(keys: dict[str, Located]) -> tuple[Metric, str]:
    try:
        metric = Metric.parse(keys["metric"].text())
    except InputError as error:
        raise keys["metric"].error(str(error)) from None
    unit = keys["unit"].text()
    if unit not in metric.units:
        raise keys["unit"].error(f"{unit!r}: {metric.name} is given in {' or '.join(metric.units)}")
    return metric, unit


def _choice(value: Located, words: Sequence[str]) -> str:
    word = value.text()
    if word not in words:
        raise value.error(f"{word!r}: expected {' or '.join(words)}")
    return word


def _regions(value: Located, old: bool) -> tuple[Region, ...]:
    if value.is_mapping:
        keys = value.mapping(("ring", "from_mm", "to_mm"), ("ring", "from_mm", "to_mm"))
        low = keys["from_mm"].number(0, MAX_RING_MM)
        high = keys["to_mm"].number(0, MAX_RING_MM)
        if high <= low:
            raise keys["to_mm"].error(f"{high:g}: expected more than from_mm ({low:g})")
        name = _name(keys["ring"], keys["ring"].text(), old)
        if name == BODY:
            raise keys["ring"].error("a ring must be around a structure inside the body")
        return (Region(structure=name, from_mm=low, to_mm=high),)
    names = value.items() if value.is_list else [value]
    if not names:
        raise value.error("expected at least one structure")
    return tuple(Region(structure=_name(one, one.text(), old)) for one in names)


def _name(value: Located, name: str, old: bool) -> str:
    if old:
        target = _OLD_TARGET.fullmatch(name)
        name = f"PTV_{target.group(1)}00" if target else _OLD_NAMES.get(name, name)
    if not is_structure_name(name):
        raise value.error(f"unknown structure {name!r}; expected a name of TG-263, a target like PTV_7000 or PTV_High")
    return name


def _points(value: Located, highest: float, weight: float, higher: bool) -> tuple[tuple[float, float], ...]:
    lines = value.items()
    if len(lines) < 2:
        raise value.error("expected at least two points [value, points]")
    found: list[tuple[float, float]] = []
    for line in lines:
        pair = line.items()
        if len(pair) != 2:
            raise line.error("expected [value, points]")
        x, y = pair[0].number(0, highest), pair[1].number(0, weight)
        if found and x <= found[-1][0]:
            raise line.error(f"values must rise; {x:g} follows {found[-1][0]:g}")
        if found and (y < found[-1][1] if higher else y > found[-1][1]):
            trend = "fall although more" if higher else "rise although less"
            raise line.error(f"the map is not monotone: points {trend} is better")
        found.append((x, y))
    most = max(y for _, y in found)
    if most != weight:
        raise value.error(f"the most points are {most:g}; expected the weight, {weight:g}")
    return tuple(found)


def _constraint(value: Located, highest: float, higher: bool) -> float:
    word, other = ("at_least", "at_most") if higher else ("at_most", "at_least")
    keys = value.mapping()
    if other in keys:
        raise keys[other].error(f"does not fit direction {'higher' if higher else 'lower'}; expected {word}")
    return value.mapping((word,), (word,))[word].number(0, highest)


def _prescription(value: Located) -> str:
    name = value.text()
    if not is_target_name(name):
        raise value.error(f"{name!r}: expected the name of a target, like PTV_High")
    return name


def _check_together(lines: Sequence[Located], criteria: Sequence[Criterion]) -> None:
    """InputError for an id that appears twice, and for two constraints that no dose can meet together."""
    seen: set[str] = set()
    for line, one in zip(lines, criteria, strict=True):
        if one.id in seen:
            raise line.error(f"id {one.id!r} appears twice")
        seen.add(one.id)
    for n, one in enumerate(criteria):
        for other in criteria[:n]:
            if _contradict(one, other) or _contradict(other, one):
                raise lines[n].error(f"impossible: its constraint and that of {other.id} cannot both hold")


def _heat(metric: Metric) -> float | None:
    """The place of a dose between the hottest (0) and the coldest (100 %) voxel. None if that is not known."""
    return {"max": 0.0, "min": 100.0, "dose_at_percent": metric.amount}.get(metric.kind)


def _contradict(least: Criterion, most: Criterion) -> bool:
    """Whether ``least`` asks for more dose in a colder part of the structure than ``most`` allows in a hotter one."""
    if least.constraint is None or most.constraint is None or not least.higher or most.higher:
        return False
    if least.regions != most.regions or least.unit != most.unit or least.prescription != most.prescription:
        return False
    cold, hot = _heat(least.metric), _heat(most.metric)
    if cold is None or hot is None or len(least.regions) > 1:
        return least.metric == most.metric and least.constraint > most.constraint
    return cold >= hot and least.constraint > most.constraint

"""Import scorecards from other programs' JSON. They are rewritten in our own schema and then read like any scorecard.

Two layouts are known, each as far as it is public:

* Varian PlanScoreCard: ``ScoreTemplates[]`` with Structure, MetricType, InputValue, InputUnit, OutputUnit and
  ``ScorePoints[{PointX, Score}]``, linear between points as ours are.
* ProKnow: ``computed[]`` with type, roi_name, arg_1 and ``objectives[{label, max | min}]``, best first. Its levels have
  no points. We spread the levels evenly from 1 point down to 0 and give every criterion the weight 1. The clinic must
  review these choices.

A criterion with no counterpart here is an error that names its line. It is not left out, because a scorecard without
one of its criteria is a different scorecard.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from shared_model.core.located import Located, read_located
from shared_model.scoring.regions import is_structure_name
from shared_model.scoring.scorecard import Scorecard
from shared_model.scoring.scorecard_read import SCHEMAS, parse_scorecard

_VARIAN_UNITS = {"Gy": "Gy", "cGy": "Gy", "%": "%", "cc": "cc", "cm3": "cc"}
_PROKNOW: Mapping[str, tuple[str, str]] = {
    "DOSE_VOLUME_PERCENT_ROI": ("D{}%", "Gy"),
    "DOSE_VOLUME_CC_ROI": ("D{}cc", "Gy"),
    "MEAN_DOSE_ROI": ("Mean", "Gy"),
    "MAX_DOSE_ROI": ("Max", "Gy"),
    "MIN_DOSE_ROI": ("Min", "Gy"),
    "VOLUME_PERCENT_DOSE_ROI": ("V{}Gy", "%"),
    "VOLUME_CC_DOSE_ROI": ("V{}Gy", "cc"),
}


def import_scorecard(path: Path, names: Mapping[str, str] | None = None) -> tuple[Scorecard, str]:
    """Read a JSON file of either layout: (scorecard, its YAML text).

    ``names``: the clinic's structure names -> TG-263. InputError names the line that cannot be imported.
    """
    top = read_located(path)
    keys = top.mapping()
    if "ScoreTemplates" in keys:
        criteria = [_varian(one, names or {}) for one in keys["ScoreTemplates"].items()]
        title = keys.get("TemplateName")
    elif "computed" in keys:
        criteria = [_proknow(one, names or {}) for one in keys["computed"].items()]
        title = keys.get("name")
    else:
        raise top.error("not a scorecard: expected ScoreTemplates (PlanScoreCard) or computed (ProKnow)")
    for number, one in enumerate(criteria, 1):
        one["id"] = f"{number:02d}_{one['structure']}_{one['metric']}"
    card = {
        "schema": SCHEMAS[-1],
        "name": path.stem if title is None or title.is_null else title.text(),
        "version": "1",
        "institution": f"imported from {path.name}",
        "missing_structure": "drop",
        "metrics": criteria,
    }
    text = yaml.safe_dump(card, sort_keys=False, width=140, default_flow_style=None)
    return parse_scorecard(text, f"{path} as imported"), text


def _structure(value: Located, names: Mapping[str, str]) -> str:
    if value.is_mapping:
        value = value.mapping(required=("StructureId",))["StructureId"]
    name = names.get(value.text(), value.text())
    if not is_structure_name(name):
        raise value.error(f"{name!r} is not a TG-263 name; give its TG-263 name: --name {name!r}=TG263_NAME")
    return name


def _varian(one: Located, names: Mapping[str, str]) -> dict[str, Any]:
    keys = one.mapping(required=("Structure", "MetricType", "OutputUnit", "ScorePoints"))
    unit_word = keys["OutputUnit"].text()
    if unit_word not in _VARIAN_UNITS:
        raise keys["OutputUnit"].error(f"{unit_word!r}: expected one of {', '.join(_VARIAN_UNITS)}")
    scale = 0.01 if unit_word == "cGy" else 1.0
    points = []
    for point in keys["ScorePoints"].items():
        pair = point.mapping(required=("PointX", "Score"))
        points.append([pair["PointX"].number() * scale, pair["Score"].number()])
    points.sort()
    metric, unit = _varian_metric(keys, _VARIAN_UNITS[unit_word])
    return _entry(_structure(keys["Structure"], names), metric, unit, points, one, "PlanScoreCard template")


def _varian_metric(keys: Mapping[str, Located], unit: str) -> tuple[str, str]:
    kind = keys["MetricType"].text()
    plain = {"MeanDose": "Mean", "MaxDose": "Max", "MinDose": "Min"}
    dose_unit = "%Rx" if unit == "%" else unit
    if kind in plain:
        return plain[kind], dose_unit
    if kind not in ("DoseAtVolume", "VolumeAtDose"):
        raise keys["MetricType"].error(
            f"{kind!r} has no counterpart here; score it by hand as one of docs/scorecards.md"
        )
    for key in ("InputValue", "InputUnit"):
        if key not in keys:
            raise keys["MetricType"].error(f"{kind} needs {key}")
    amount, word = keys["InputValue"].number(), keys["InputUnit"].text()
    if word not in _VARIAN_UNITS:
        raise keys["InputUnit"].error(f"{word!r}: expected one of {', '.join(_VARIAN_UNITS)}")
    amount *= 0.01 if word == "cGy" else 1.0
    if kind == "DoseAtVolume":
        return f"D{amount:g}{_VARIAN_UNITS[word]}", dose_unit
    return f"V{amount:g}{_VARIAN_UNITS[word]}", unit


def _proknow(one: Located, names: Mapping[str, str]) -> dict[str, Any]:
    keys = one.mapping(required=("type", "roi_name", "objectives"))
    kind = keys["type"].text()
    if kind not in _PROKNOW:
        raise keys["type"].error(f"{kind!r} has no counterpart here; known: {', '.join(_PROKNOW)}")
    form, unit = _PROKNOW[kind]
    if "{}" in form and "arg_1" not in keys:
        raise one.error(f"{kind} needs arg_1")
    metric = form.format(f"{keys['arg_1'].number():g}") if "{}" in form else form
    bounds: list[float] = []
    side = ""
    for level in keys["objectives"].items():
        values = level.mapping()
        given = [key for key in ("max", "min") if key in values and not values[key].is_null]
        if not given:
            continue  # the last level has no bound: it is for everything worse
        if len(given) > 1 or (side and given[0] != side):
            raise level.error("expected only max or only min, the same one in every objective")
        side = given[0]
        bounds.append(values[side].number())
    if len(bounds) < 2:
        raise keys["objectives"].error("expected at least two levels with a bound; one bound gives no map to points")
    share = [round(1 - n / (len(bounds) - 1), 6) for n in range(len(bounds))]
    points = sorted([bound, points] for bound, points in zip(bounds, share, strict=True))
    source = "ProKnow objectives, points spread evenly (ours)"
    return _entry(_structure(keys["roi_name"], names), metric, unit, points, one, source)


def _entry(
    structure: str, metric: str, unit: str, points: list[list[float]], one: Located, source: str
) -> dict[str, Any]:
    most = max((y for _, y in points), default=0.0)
    if most <= 0:
        raise one.error("no score point above 0; expected a map with points")
    return {
        "id": "",
        "structure": structure,
        "metric": metric,
        "unit": unit,
        "direction": "higher" if points[-1][1] > points[0][1] else "lower",
        "weight": most,
        "points": points,
        "source": f"{source}, {re.sub('.*/', '', one.at)}",
    }

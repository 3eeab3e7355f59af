"""A scorecard as the text fields of a form, and back: as YAML that the one reader of scorecards has checked.

Lists and maps are written on one line: several structures as ``Parotid_L, Parotid_R``, a ring as
``ring PTV_High 10-30 mm``, points as ``90: 0, 95: 14, 100: 20``. What is typed is never judged here. It goes to the
reader as it stands, and the reader's error is told by criterion and field. Loads no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from shared_model.core.errors import InputError
from shared_model.core.located import Located, read_located
from shared_model.scoring.regions import Region
from shared_model.scoring.scorecard import Criterion, Scorecard
from shared_model.scoring.scorecard_read import SCHEMAS, parse_scorecard, scorecard

# Texts of the whole card, and of one criterion, in the order of the form.
TOP = ("name", "version", "site", "institution", "description", "prescription_gy", "fractions")
CRITERION = (
    "id", "structure", "reduce", "metric", "unit", "direction", "weight", "points", "constraint", "goal", "limit",
    "prescription", "source",
)  # fmt: skip
MOST_CRITERIA = 100
_MOST_LETTERS = 2000
_NUMBERS = ("weight", "goal", "limit")
_RING = re.compile(r"ring +(\S+) +([0-9.]+) *- *([0-9.]+) *mm")
_FIELD = re.compile(r"([1-9][0-9]{0,2})\.([a-z_]+)")
_FAULT = re.compile(r"card:\d+: (?:metrics\[(?P<number>\d+)\](?:\.(?P<key>\w+))?(?P<deeper>\S*): )?(?P<words>.*)", re.S)
_MISSING = re.compile(r"key '(\w+)' is missing")


class CardError(InputError):
    """The reader refuses the card. ``field``: the field at fault as in the form (``3.points``); empty if none is."""

    def __init__(self, text: str, field: str) -> None:
        super().__init__(text)
        self.field = field


@dataclass(frozen=True, kw_only=True)
class CardForm:
    """The fields of a scorecard: those of TOP, and for each criterion those of CRITERION. All texts, "" if absent."""

    top: Mapping[str, str]
    criteria: Sequence[Mapping[str, str]]

    @classmethod
    def read(cls, path: Path) -> CardForm:
        """Read a scorecard file of any version. InputError as the reader gives it."""
        located = read_located(path)
        card, keys = scorecard(located), located.mapping()
        top = {key: _plain(keys[key]) for key in TOP if key in keys} | {"name": card.name, "version": card.version}
        top["prescription_gy"] = _pairs(card.prescriptions_gy.items())
        return cls(top={key: top.get(key, "") for key in TOP}, criteria=[_fields(c) for c in card.criteria])

    @classmethod
    def given(cls, values: Mapping[str, str]) -> CardForm:
        """Take what a browser sent: fields of TOP by their name, those of criteria as ``3.points``, counted from 1.

        InputError for a field that no form has, for too many criteria, and for a text that is too long.
        """
        top, criteria = dict.fromkeys(TOP, ""), dict[int, dict[str, str]]()
        for key, value in values.items():
            text = _one_line(key, value)
            match = _FIELD.fullmatch(key)
            if key in TOP:
                top[key] = text
            elif match and match.group(2) in CRITERION and int(match.group(1)) <= MOST_CRITERIA:
                fields = criteria.setdefault(int(match.group(1)), dict.fromkeys(CRITERION, ""))
                fields[match.group(2)] = text
            else:
                raise InputError(f"not a field of a scorecard of at most {MOST_CRITERIA} criteria")
        return cls(top=top, criteria=[criteria[number] for number in sorted(criteria)])

    def checked(self) -> tuple[str, Scorecard]:
        """Return the card as YAML, and as the reader understands it. Raises CardError."""
        text = yaml.safe_dump(self._content(), sort_keys=False, width=120, default_flow_style=None, allow_unicode=True)
        try:
            return text, parse_scorecard(text, "card")
        except InputError as error:
            raise self._fault(str(error)) from None

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = {"schema": SCHEMAS[-1]}
        content |= {key: text for key in TOP if (text := self.top[key])}
        if self.top["prescription_gy"]:
            pairs = _split_pairs(self.top["prescription_gy"])
            if all(len(pair) == 2 for pair in pairs):  # else the text as it is, for the reader to refuse
                content["prescription_gy"] = {str(name): gy for name, gy in pairs}
        if self.top["fractions"]:
            content["fractions"] = _number(self.top["fractions"])
        return {**content, "missing_structure": "drop", "metrics": [_criterion(one) for one in self.criteria]}

    def _fault(self, text: str) -> CardError:
        found = _FAULT.fullmatch(text)
        if found is None:
            return CardError(text, "")
        words, missing = found["words"], _MISSING.search(found["words"])
        key = found["key"] or (missing.group(1) if missing else "")
        if not found["number"]:
            return CardError(words, key or words.partition(":")[0].partition(".")[0])
        number = int(found["number"])
        named = self.criteria[number - 1]["id"]
        place = ", ".join(
            part for part in (f"criterion {number}", named, (found["key"] or "") + found["deeper"]) if part
        )
        return CardError(f"{place}: {words}", f"{number}.{key}" if key else "")


def _fields(c: Criterion) -> dict[str, str]:
    numbers = {"weight": c.weight, "goal": c.goal, "limit": c.limit, "constraint": c.constraint}
    return {
        **dict.fromkeys(CRITERION, ""),
        **{key: _digits(value) for key, value in numbers.items() if value is not None},
        "id": c.id,
        "structure": ", ".join(_region(region) for region in c.regions),
        "reduce": c.reduce if len(c.regions) > 1 else "",
        "metric": c.metric.name,
        "unit": c.unit,
        "direction": "higher" if c.higher else "lower",
        "points": _pairs(c.points),
        "prescription": c.prescription or "",
        "source": c.source,
    }


def _region(region: Region) -> str:
    if region.to_mm is None:
        return region.structure
    return f"ring {region.structure} {_digits(region.from_mm)}-{_digits(region.to_mm)} mm"


def _criterion(fields: Mapping[str, str]) -> dict[str, Any]:
    """One criterion as YAML's values; what is empty is left out, so that the reader misses it."""
    found: dict[str, Any] = {key: text for key, text in fields.items() if text}
    found |= {key: _number(found[key]) for key in _NUMBERS if key in found}
    if "structure" in found:
        found["structure"] = _structure(found["structure"])
    if "points" in found:
        found["points"] = _split_pairs(found["points"])
    if "constraint" in found:
        word = "at_most" if fields["direction"] == "lower" else "at_least"
        found["constraint"] = {word: _number(found["constraint"])}
    return found


def _structure(text: str) -> Any:
    ring = _RING.fullmatch(text)
    if ring:
        return {"ring": ring.group(1), "from_mm": _number(ring.group(2)), "to_mm": _number(ring.group(3))}
    return [name.strip() for name in text.split(",")] if "," in text else text


def _split_pairs(text: str) -> list[list[Any]]:
    """``90: 0, 95: 14`` as [[90, 0], [95, 14]]; a part without a colon is a list of one, which the reader refuses."""
    return [[_number(half.strip()) for half in part.split(":")] for part in text.split(",")]


def _pairs(pairs: Any) -> str:
    return ", ".join(f"{first if isinstance(first, str) else _digits(first)}: {_digits(y)}" for first, y in pairs)


def _digits(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _number(text: str) -> int | float | str:
    """The number that a text says; the text itself where it says none, for the reader to refuse."""
    try:
        value = float(text)
    except ValueError:
        return text
    if not math.isfinite(value):
        return text
    return int(value) if value == int(value) else value


def _plain(value: Located) -> str:
    found = value.value()
    return "" if found is None or isinstance(found, dict | list) else " ".join(str(found).split())


def _one_line(key: str, value: str) -> str:
    text = " ".join(value.split())
    if len(text) > _MOST_LETTERS or not text.isprintable():
        raise InputError(f"{key[:40]!r}: expected at most {_MOST_LETTERS} letters that can be printed")
    return text

"""Rules for the scalar fields of a message. A value that breaks its rule is refused with a text of ours alone.

The texts name our own keys and limits and never quote what came in: a foreign key or value may hold a patient's name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

from shared_model.core.errors import InputError


class MessageError(InputError):
    """A message that breaks the schema. ``code`` is a refusal code (privacy/wire/messages.py); the text is safe to
    send."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Rule(Protocol):
    """What one field may hold."""

    def accepts(self, value: object) -> bool:
        """Tell whether the value has the exact type and lies in the range."""
        ...

    def expected(self) -> str:
        """Say what the field may hold, for an error text."""
        ...


@dataclass(frozen=True)
class Whole:
    """An integer in [low, high]; a bool is none."""

    low: int
    high: int

    def accepts(self, value: object) -> bool:
        """Tell whether the value is such an integer."""
        return type(value) is int and self.low <= value <= self.high

    def expected(self) -> str:
        """Say which integers."""
        return f"an integer from {self.low} to {self.high}"


@dataclass(frozen=True)
class Real:
    """A finite float in [low, high], or in (low, high] where ``above`` is set."""

    low: float
    high: float
    above: bool = False

    def accepts(self, value: object) -> bool:
        """Tell whether the value is such a float."""
        if type(value) is not float or not math.isfinite(value):
            return False
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    def expected(self) -> str:
        """Say which floats."""
        return f"a finite float {'above' if self.above else 'from'} {self.low:g} up to {self.high:g}"


@dataclass(frozen=True)
class OneOf:
    """One of a few fixed words."""

    words: tuple[str, ...]

    def accepts(self, value: object) -> bool:
        """Tell whether the value is one of the words."""
        return type(value) is str and value in self.words

    def expected(self) -> str:
        """List the words."""
        return "one of " + ", ".join(self.words)


@dataclass(frozen=True)
class Text:
    """A string that matches a pattern as a whole and is no longer than ``longest`` characters."""

    pattern: str
    longest: int
    what: str

    def accepts(self, value: object) -> bool:
        """Tell whether the value is such a string."""
        return type(value) is str and len(value) <= self.longest and re.fullmatch(self.pattern, value) is not None

    def expected(self) -> str:
        """Say what the string is for."""
        return f"{self.what} of at most {self.longest} characters"


def check_values(code: str, where: str, values: Mapping[str, object], rules: Mapping[str, Rule]) -> None:
    """Refuse missing keys, unknown keys and values that break their rule; raises MessageError with ``code``."""
    missing = sorted(set(rules) - set(values))
    if missing:
        raise MessageError(code, f"{where}: field {missing[0]} is missing")
    if len(values) != len(rules):
        raise MessageError(code, f"{where}: holds a field that the schema does not know; expected {', '.join(rules)}")
    for key, rule in rules.items():
        if not rule.accepts(values[key]):
            raise MessageError(code, f"{where}: {key} must be {rule.expected()}")


def check_fields(instance: Any, where: str, rules: Mapping[str, Rule]) -> None:
    """Validate a frozen dataclass in its ``__post_init__``; an int given for a float becomes one first."""
    for field in fields(instance):
        value = getattr(instance, field.name)
        if isinstance(rules[field.name], Real) and type(value) is int:
            object.__setattr__(instance, field.name, float(value))
    check_values("bad_task", where, {f.name: getattr(instance, f.name) for f in fields(instance)}, rules)

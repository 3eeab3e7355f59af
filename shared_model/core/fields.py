"""Rules for the scalar fields of a message, and the errors for values that break them.

The error texts name only our own keys and limits. They never quote what came in, because a foreign key or value may
hold a patient's name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

from shared_model.core.errors import InputError


class MessageError(InputError):
    """A message breaks the schema. ``code`` is a refusal code (privacy/wire/messages.py). The text is safe to send."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Rule(Protocol):
    """What one field may hold."""

    def accepts(self, value: object) -> bool:
        """Return whether the value has the exact type and lies in the range."""
        ...

    def expected(self) -> str:
        """Return what the field may hold, in words for an error text."""
        ...


@dataclass(frozen=True)
class Whole:
    """An integer in [low, high]. A bool does not count as an integer."""

    low: int
    high: int

    def accepts(self, value: object) -> bool:
        """Return whether the value is such an integer."""
        return type(value) is int and self.low <= value <= self.high

    def expected(self) -> str:
        """Return the allowed integers in words."""
        return f"an integer from {self.low} to {self.high}"


@dataclass(frozen=True)
class Real:
    """A finite float in [low, high], or in (low, high] where ``above`` is set."""

    low: float
    high: float
    above: bool = False

    def accepts(self, value: object) -> bool:
        """Return whether the value is such a float."""
        if type(value) is not float or not math.isfinite(value):
            return False
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    def expected(self) -> str:
        """Return the allowed floats in words."""
        return f"a finite float {'above' if self.above else 'from'} {self.low:g} up to {self.high:g}"


@dataclass(frozen=True)
class OneOf:
    """One of a few fixed words."""

    words: tuple[str, ...]

    def accepts(self, value: object) -> bool:
        """Return whether the value is one of the words."""
        return type(value) is str and value in self.words

    def expected(self) -> str:
        """List the words."""
        return "one of " + ", ".join(self.words)


@dataclass(frozen=True)
class Text:
    """A string of at most ``longest`` characters that matches the whole pattern. ``what`` names it in error texts."""

    pattern: str
    longest: int
    what: str

    def accepts(self, value: object) -> bool:
        """Return whether the value is such a string."""
        return type(value) is str and len(value) <= self.longest and re.fullmatch(self.pattern, value) is not None

    def expected(self) -> str:
        """Return what the string is and its longest length."""
        return f"{self.what} of at most {self.longest} characters"


def check_values(code: str, where: str, values: Mapping[str, object], rules: Mapping[str, Rule]) -> None:
    """Raise MessageError with ``code`` for a missing key, an unknown key or a value that breaks its rule."""
    missing = sorted(set(rules) - set(values))
    if missing:
        raise MessageError(code, f"{where}: field {missing[0]} is missing")
    if len(values) != len(rules):
        raise MessageError(code, f"{where}: holds a field that the schema does not know; expected {', '.join(rules)}")
    for key, rule in rules.items():
        if not rule.accepts(values[key]):
            raise MessageError(code, f"{where}: {key} must be {rule.expected()}")


def check_fields(instance: Any, where: str, rules: Mapping[str, Rule]) -> None:
    """Check a frozen dataclass in its ``__post_init__``. An int in a field of rule Real first becomes a float.

    Raises MessageError with the code ``bad_task`` for a value that breaks its rule.
    """
    for field in fields(instance):
        value = getattr(instance, field.name)
        if isinstance(rules[field.name], Real) and type(value) is int:
            object.__setattr__(instance, field.name, float(value))
    check_values("bad_task", where, {f.name: getattr(instance, f.name) for f in fields(instance)}, rules)

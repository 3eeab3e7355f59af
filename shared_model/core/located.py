"""Read YAML and JSON files that people write, so that each value knows its line in the file."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from shared_model.core.errors import InputError

# A scorecard of a hundred criteria takes a fifth of this, and so does a site.yaml of ten thousand patients.
MAX_BYTES = 1_000_000


class Located:
    """One value of a file. ``at`` is its file and line, ``key`` its path of keys. JSON is read as YAML, which it is."""

    def __init__(self, node: yaml.Node, file: str, key: str = "") -> None:
        self._node, self._file, self.key = node, file, key

    @property
    def at(self) -> str:
        """File and line, such as ``card.yaml:12``."""
        return f"{self._file}:{self._node.start_mark.line + 1}"

    def error(self, text: str) -> InputError:
        """An error whose text starts with the file, line and key of this value."""
        return InputError(f"{self.at}: {self.key + ': ' if self.key else ''}{text}")

    @property
    def is_mapping(self) -> bool:
        """Whether the value is a mapping of keys to values."""
        return isinstance(self._node, yaml.MappingNode)

    @property
    def is_list(self) -> bool:
        """Whether the value is a list."""
        return isinstance(self._node, yaml.SequenceNode)

    def mapping(self, known: Collection[str] | None = None, required: Collection[str] = ()) -> dict[str, Located]:
        """The values by key. InputError for a key not in ``known`` (if given) and for a missing ``required`` key."""
        if not isinstance(self._node, yaml.MappingNode):
            raise self.error("expected keys and values")
        found: dict[str, Located] = {}
        for key_node, value in self._node.value:
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
            inside = Located(value, self._file, f"{self.key}.{key}" if self.key else key)
            there = Located(key_node, self._file, inside.key)
            if known is not None and key not in known:
                raise there.error(f"unknown key; expected {', '.join(sorted(known))}")
            if key in found:
                raise there.error("appears twice")
            found[key] = inside
        for key in required:
            if key not in found:
                raise self.error(f"key {key!r} is missing")
        return found

    def items(self) -> list[Located]:
        """The elements of a list. InputError if the value is not a list."""
        if not isinstance(self._node, yaml.SequenceNode):
            raise self.error("expected a list")
        return [Located(one, self._file, f"{self.key}[{n}]") for n, one in enumerate(self._node.value, 1)]

    def text(self) -> str:
        """The text, without spaces at its ends. InputError if it is empty or not a single value."""
        if not isinstance(self._node, yaml.ScalarNode) or not self._node.value.strip():
            raise self.error("expected a text")
        return str(self._node.value).strip()

    def number(self, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number from ``low`` to ``high``. InputError for anything else."""
        limits = f" from {low:g} to {high:g}" if math.isfinite(low) and math.isfinite(high) else ""
        # A quoted number is a text. YAML 1.1 also takes JSON's 1e5 for a text, but float() reads it.
        if not isinstance(self._node, yaml.ScalarNode) or self._node.style is not None:
            raise self.error(f"expected a number{limits}")
        try:
            value = float(self._node.value)
        except ValueError:
            raise self.error(f"{self._node.value!r}: expected a number{limits}") from None
        if not math.isfinite(value) or not low <= value <= high:
            raise self.error(f"{self._node.value}: expected a number{limits or ' that is finite'}")
        return value

    def value(self) -> Any:
        """The value as plain Python: text, number, date, list, mapping or None. InputError if YAML cannot read it."""
        try:
            return yaml.SafeLoader("").construct_document(self._node)
        except (yaml.YAMLError, ValueError, RecursionError):  # an impossible date, an unknown tag, deep nesting
            raise self.error("YAML cannot read this value") from None

    def item(self, content: object) -> Located:
        """The element of this list whose value equals ``content``, or the list itself if none does."""
        if not self.is_list:
            return self
        return next((one for one in self.items() if one.value() == content), self)

    @property
    def is_null(self) -> bool:
        """Whether the value is empty or null."""
        return isinstance(self._node, yaml.ScalarNode) and self._node.tag == "tag:yaml.org,2002:null"


def read_located(path: Path, blank: str = "") -> Located:
    """Read the file ``path`` and return its top value. InputError if it is unreadable or neither YAML nor JSON.

    ``blank``: the YAML to read in place of an empty file, such as ``{}``. By default an empty file is an error.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or type(error).__name__})") from None
    if len(content) > MAX_BYTES:
        raise InputError(f"{path}: {len(content)} bytes; expected a file of at most {MAX_BYTES}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
    return parse_located(text, str(path), blank)


def parse_located(text: str, file: str, blank: str = "") -> Located:
    """Read ``text`` and return its top value, as ``read_located`` does. ``file`` names the text in errors."""
    try:
        # JSON may be indented by tabs, which YAML refuses. Replacing them moves columns but not lines.
        node: Any = yaml.compose(text.replace("\t", "  "), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise InputError(f"{file}:{line}: not YAML ({error.problem or 'syntax'})") from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise InputError(f"{file}:1: not YAML") from None
    if node is None and blank:
        return parse_located(blank, file)
    if node is None:
        raise InputError(f"{file}:1: the file is empty")
    return Located(node, file)

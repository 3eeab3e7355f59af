"""The site's own file of structure names: patterns, what to leave out, prescriptions. YAML, never leaves the site.

```yaml
names:                      # TG-263 name: regular expressions for the whole name, upper or lower case
  Parotid_L: ["parotis li.*"]
ignore: ["z_.*", ".*opt"]   # structures that are never used
prescriptions_gy:           # targets whose name and plan do not tell, or tell wrong
  "PTV High": 70.0
```
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from client.names.tg263 import BODY, is_tg263
from shared_model.core.errors import InputError, naming

NAMES_TEXT = """\
# How this site's structure names are read (docs/dicom.md). Patterns are regular expressions for the whole name, upper
# or lower case. What is not sure is not used: `client check` lists it. After a change restart `client start`.

# TG-263 name: patterns.
names: {}
#  Parotid_L: ["parotis li.*"]

# Structures that are never used.
ignore: []
#  - "z_.*"

# Prescriptions in Gy of targets whose name and plan do not tell, or tell wrong.
prescriptions_gy: {}
#  "PTV High": 70.0
"""

_LONGEST_PATTERN = 200
_KEYS = ("names", "ignore", "prescriptions_gy")


@dataclass(frozen=True)
class NameRules:
    """A site's rules; without a file there are none. ``names`` are (TG-263 name, pattern) in the order of the file."""

    names: tuple[tuple[str, re.Pattern[str]], ...] = ()
    ignore: tuple[re.Pattern[str], ...] = ()
    prescriptions_gy: tuple[tuple[re.Pattern[str], float], ...] = field(default=())

    @classmethod
    def load(cls, path: Path | None) -> NameRules:
        """Read the file, none for no path. Raises InputError naming file and key."""
        if path is None:
            return cls()
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); expected a file of structure names") from None
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            raise InputError(f"{path}: cannot be read as YAML ({type(error).__name__})") from None
        with naming(path):
            return cls._from_mapping({} if content is None else content)

    @classmethod
    def _from_mapping(cls, content: Any) -> NameRules:
        if not isinstance(content, Mapping) or set(content) - set(_KEYS):
            raise InputError(f"expected the keys {', '.join(_KEYS)} and no other")
        names = [
            (_known(name), pattern)
            for name, patterns in _mapping(content, "names").items()
            for pattern in _patterns(patterns, f"names: {name}")
        ]
        levels = []
        for name, level in _mapping(content, "prescriptions_gy").items():
            if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 < level < 200:
                raise InputError(f"prescriptions_gy: {name}: expected 0 to 200 Gy")
            levels.append((_compile(name, "prescriptions_gy"), float(level)))
        return cls(tuple(names), tuple(_patterns(content.get("ignore") or [], "ignore")), tuple(levels))


def _mapping(content: Mapping[Any, Any], key: str) -> Mapping[Any, Any]:
    value = content.get(key) or {}
    if not isinstance(value, Mapping):
        raise InputError(f"{key}: expected names and values")
    return value


def _known(name: Any) -> str:
    if not isinstance(name, str) or not (name == BODY or is_tg263(name)):
        raise InputError(f"names: {name!r} is no TG-263 name; expected one like Parotid_L or SpinalCord")
    return name


def _patterns(value: Any, key: str) -> list[re.Pattern[str]]:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list):
        raise InputError(f"{key}: expected a pattern or a list of patterns")
    return [_compile(pattern, key) for pattern in found]


def _compile(pattern: Any, key: str) -> re.Pattern[str]:
    if not isinstance(pattern, str) or not 0 < len(pattern) <= _LONGEST_PATTERN:
        raise InputError(f"{key}: expected a pattern of 1 to {_LONGEST_PATTERN} characters")
    try:
        return re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise InputError(f"{key}: {pattern!r} is no regular expression ({error})") from None

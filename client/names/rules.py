"""The site's own file of structure names: patterns, what to leave out, prescriptions. YAML, never leaves the site.

```yaml
names:                      # TG-263 name: regular expressions for the whole name, upper or lower case
  Parotid_L: ["parotis li.*"]
ignore: ["z_.*", ".*opt"]   # structures that are never used
prescriptions_gy:           # targets whose name and plan give no prescription, or a wrong one
  "PTV High": 70.0
unite: ["PTVn_[LR]_5600"]   # targets of one level that together are one target
```
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from client.names.tg263 import BODY, is_tg263
from shared_model.core.errors import InputError
from shared_model.core.located import Located, parse_located, read_located

NAMES_TEXT = """\
# How to read this site's structure names (docs/dicom.md).
# A pattern is a regular expression that must match the whole name. Upper and lower case are the same.
# An uncertain name is not used; `client check` lists it. After a change, restart `client start`.

# For each TG-263 name, the patterns of this site's names for it.
names: {}
#  Parotid_L: ["parotis li.*"]

# Structures that are never used.
ignore: []
#  - "z_.*"

# Prescribed doses of targets in Gy, if the name and the plan do not give them or give wrong ones.
prescriptions_gy: {}
#  "PTV High": 70.0

# Targets of one level that together are one target, such as the nodes of both sides.
unite: []
#  - "PTVn_[LR]_5600"
"""

_LONGEST_PATTERN = 200
_HIGHEST_GY = 200.0
_NO_RULES = "{}"
_KEYS = ("names", "ignore", "prescriptions_gy", "unite")


@dataclass(frozen=True)
class NameRules:
    """A site's rules; without a file there are none. ``names`` are (TG-263 name, pattern) in the order of the file."""

    names: tuple[tuple[str, re.Pattern[str]], ...] = ()
    ignore: tuple[re.Pattern[str], ...] = ()
    prescriptions_gy: tuple[tuple[re.Pattern[str], float], ...] = field(default=())
    unite: tuple[re.Pattern[str], ...] = ()

    @classmethod
    def load(cls, path: Path | None) -> NameRules:
        """Read the file, none for no path. Raises InputError naming file, line and key."""
        if path is None:
            return cls()
        if not path.exists():
            raise InputError(f"{path}: no such file; expected a file of structure names")
        return cls._of(read_located(path, _NO_RULES))

    @classmethod
    def parse(cls, text: str, file: str) -> NameRules:
        """Read the rules from a text; ``file`` names it in errors."""
        return cls._of(parse_located(text, file, _NO_RULES))

    @classmethod
    def _of(cls, top: Located) -> NameRules:
        content = top.mapping(_KEYS)
        names = [
            (_check_name(name, patterns), pattern)
            for name, patterns in _mapping(content, "names").items()
            for pattern in _patterns(patterns)
        ]
        levels = [
            (_compile(name, level), level.number(0, _HIGHEST_GY))
            for name, level in _mapping(content, "prescriptions_gy").items()
        ]
        ignore, unite = (tuple(_patterns_of(content, key)) for key in ("ignore", "unite"))
        return cls(tuple(names), ignore, tuple(levels), unite)


def _patterns_of(content: Mapping[str, Located], key: str) -> list[re.Pattern[str]]:
    there = content.get(key)
    return [] if there is None or there.is_null else _patterns(there)


def _mapping(content: Mapping[str, Located], key: str) -> Mapping[str, Located]:
    there = content.get(key)
    return {} if there is None or there.is_null else there.mapping()


def _check_name(name: str, there: Located) -> str:
    if not (name == BODY or is_tg263(name)):
        raise there.error("not a TG-263 name; expected one like Parotid_L or SpinalCord")
    return name


def _patterns(there: Located) -> list[re.Pattern[str]]:
    if not there.is_list and not isinstance(there.value(), str):
        raise there.error("expected a pattern or a list of patterns")
    return [_compile(one.value(), one) for one in (there.items() if there.is_list else [there])]


def _compile(pattern: object, there: Located) -> re.Pattern[str]:
    if not isinstance(pattern, str) or not 0 < len(pattern) <= _LONGEST_PATTERN:
        raise there.error(f"expected a pattern of 1 to {_LONGEST_PATTERN} characters")
    try:
        return re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise there.error(f"{pattern!r} is not a regular expression ({error})") from None

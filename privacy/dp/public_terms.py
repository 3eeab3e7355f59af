"""Public terms that travel as canonical JSON: what a plan, a request and a report hold of them, read strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from shared_model.core.fields import MessageError


@dataclass(frozen=True, kw_only=True)
class PublicTerms:
    """A dataclass of plain values; ``what`` names it in errors."""

    what: ClassVar[str]

    def to_plain(self) -> dict[str, Any]:
        """Return the terms as plain values."""
        return asdict(self)

    def to_json(self) -> str:
        """Return the canonical JSON: sorted keys, no blanks."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Read what ``to_plain`` returned, strictly. A MessageError names the key."""
        names = {field.name for field in fields(cls)}
        if set(plain) != names:
            raise MessageError("bad_task", f"{cls.what}: expected exactly {', '.join(sorted(names))}")
        return cls(**plain)

    @classmethod
    def from_json(cls, text: str) -> Self | None:
        """Read what ``to_json`` wrote. Empty text means no such terms and gives None; MessageError for other text."""
        if not text:
            return None
        try:
            plain = json.loads(text)
        except (ValueError, RecursionError):
            plain = None
        if not isinstance(plain, dict):
            raise MessageError("bad_task", f"{cls.what}: expected a JSON object")
        return cls.from_plain(plain)

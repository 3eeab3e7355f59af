"""The rows of the review table of structure names."""

from __future__ import annotations

from dataclasses import dataclass, field

from client.names.tg263 import BODY
from shared_model.patient.anatomy import is_known

MAPPED, AMBIGUOUS, UNMAPPED, IGNORED = "mapped", "ambiguous", "unmapped", "ignored"


@dataclass(frozen=True, kw_only=True)
class NameRow:
    """One row of the review table. ``name`` is the record's own and may hold a person's name: for the site's screen.

    ``tg263`` is the name that it was given, empty for none; ``how`` says by what. ``used`` tells whether the model
    knows it. ``candidates`` are TG-263 names that look alike. ``target``: by name or type it is a target, whatever
    became of it; ``prescription_gy`` is then the level that its name or the plan gives it, if any.
    """

    number: int
    name: str = field(repr=False)
    kind: str
    status: str
    tg263: str = ""
    how: str
    prescription_gy: float | None = None
    candidates: tuple[str, ...] = ()
    target: bool = False

    @property
    def used(self) -> bool:
        """Whether it becomes part of the Case."""
        return self.status == MAPPED and (self.tg263 == BODY or is_known(self.tg263))

"""How often this site has answered under each plan: ``state/plan_answers.json``, written before an answer leaves.

A plan says how many training answers a site gives under it (``FederationPlan.answers``). A coordinator that runs the
plan's run again and again, each time as a new run, gets no more than that. In private modes each answer is charged to
the ledger besides.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shared_model.core.errors import InputError, PolicyError
from shared_model.core.files import write_json

_MOST_PLANS = 1000


@dataclass(frozen=True, kw_only=True)
class PlanAnswers:
    """The counts in the file ``path``, by the plan's SHA-256 in hex."""

    path: Path

    def count(self, plan: str) -> int:
        """Return how many answers were given under a plan."""
        return self._read().get(plan, 0)

    def check(self, plan: str, most: int) -> None:
        """Raise PolicyError when the plan allows no further answer."""
        if self.count(plan) >= most:
            raise PolicyError(f"plan: this site has given the {most} answers that its pinned plan allows")

    def add(self, plan: str, most: int) -> None:
        """Count one more answer, durably, before it leaves. PolicyError when the plan allows no further one."""
        with self._lock():
            self.check(plan, most)
            counts = self._read()
            counts[plan] = counts.get(plan, 0) + 1
            if len(counts) > _MOST_PLANS:
                raise InputError(f"{self.path}: counts {len(counts)} plans; something makes plans without end")
            write_json(self.path, counts)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _read(self) -> dict[str, int]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: cannot be read; restore it: it counts what left under each plan") from error
        if not isinstance(found, dict) or not all(type(count) is int and count >= 0 for count in found.values()):
            raise InputError(f"{self.path}: expected counts by plan; restore it: it counts what left under each plan")
        return found

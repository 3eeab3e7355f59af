"""A round that makes the error on public patients worse is taken back: the vector stays as it was before the round.

A poisoned sum looks like an honest one, and nobody may look at a single update. But its effect on public patients can
be measured. This limits the harm: per round, and over the run against its best round. The rule does not see who did it,
nor harm that does not show on those patients. Afterwards each site runs its own test before it adopts an adapter
(client/adapters/acceptance.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from server.config.run import RunConfig
from server.config.schedule import round_stage
from server.record.history import PublicVerdict, RoundRecord
from shared_model.core.vector import Vector

# (vector (d,), stage) -> error in Gy on public patients of the part of the model that the stage trains.
Check = Callable[[Vector, str], float]
# When this many rounds in a row are taken back, the run ends: each costs the sites privacy and brings nothing.
MOST_IN_A_ROW = 3


class PublicGate:
    """Judges rounds by ``rounds.public_step`` and ``rounds.public_worst``. The history holds all that it knows."""

    def __init__(self, config: RunConfig, check: Check) -> None:
        self._config, self._check = config, check

    def standing(self, number: int, vector: Vector, last: RoundRecord | None) -> PublicVerdict:
        """Return the errors before round ``number``: that of ``vector`` (d,) after the record ``last``, and the best.

        Call this before the sites are asked. Then a broken check costs the sites nothing.
        """
        same_part = last is not None and self._of_base(last.round) == self._of_base(number)
        known = last.public if last is not None and same_part else None
        gy = self._check(vector, self._stage(number)) if known is None else known.stands_gy
        best_gy = gy if known is None else min(known.best_gy, gy)
        return PublicVerdict(before_gy=gy, best_gy=best_gy, after_gy=gy)

    def verdict(self, number: int, standing: PublicVerdict, after: Vector) -> PublicVerdict:
        """Judge round ``number``, which changed the vector from ``standing`` to ``after`` (d,)."""
        found = replace(standing, after_gy=self._check(after, self._stage(number)))
        return replace(found, why=self._why(found))

    def _why(self, found: PublicVerdict) -> str:
        rounds, told = self._config.rounds, f"{found.after_gy:.3g} Gy on public patients"
        if rounds.public_step and found.after_gy > rounds.public_step * found.before_gy:
            return f"{told}, above {rounds.public_step:g} x {found.before_gy:.3g} before it (rounds.public_step)"
        if rounds.public_worst and found.after_gy > rounds.public_worst * found.best_gy:
            return f"{told}, above {rounds.public_worst:g} x the best, {found.best_gy:.3g} (rounds.public_worst)"
        return ""

    def _stage(self, number: int) -> str:
        return round_stage(self._config.train, number, self._config.rounds.count)[0]

    def _of_base(self, number: int) -> bool:
        """Return whether a round trains the base. The base is scored by itself."""
        return self._stage(number) == "base"


def stop_reason(history: Sequence[RoundRecord]) -> str:
    """Return in words why a run ends early, when its last rounds were all taken back; otherwise an empty text."""
    last = history[-MOST_IN_A_ROW:]
    if len(last) < MOST_IN_A_ROW or not all(record.rolled_back for record in last):
        return ""
    return (
        f"rounds {last[0].round} to {last[-1].round} were taken back, because each made public patients worse: a site"
        " may send poison, or the noise or the steps (train.lr, train.base_lr) may be too large"
    )


def public_summary(history: Sequence[RoundRecord]) -> dict[str, Any]:
    """Return what report and model card say: error (Gy) before the first judged round and now, rounds taken back."""
    verdicts = [record.public for record in history if record.public is not None]
    if not verdicts:
        return {}
    return {
        "start_gy": round(verdicts[0].before_gy, 3),
        "end_gy": round(verdicts[-1].stands_gy, 3),
        "taken_back": [record.round for record in history if record.rolled_back],
        "stopped": stop_reason(history),
    }


def stop_lines(report: Mapping[str, Any]) -> list[str]:
    """Return a table's line that the run of this report or summary ended early; an empty list if it did not."""
    why = report.get("public", {}).get("stopped")
    return [f"STOPPED: {why}"] if why else []

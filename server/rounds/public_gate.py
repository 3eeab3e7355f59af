"""Rounds that make things worse on public patients are taken back: the vector before the round stays.

A poisoned sum cannot be told from an honest one by looking at it, and no single update can be looked at. What it does
to public patients can be measured, and bounds the harm: per round, and over the run against its best round. The rule
is blind to who did it, and to harm that those patients do not feel; each site's own test before it adopts an adapter
(client/adapters/acceptance.py) comes after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from server.config.run import RunConfig
from server.config.schedule import round_stage
from server.record.history import PublicVerdict, RoundRecord
from shared_model.core.vector import Vector

# Error in Gy of a vector (d,) on public patients, of the part of the model that a stage trains.
Check = Callable[[Vector, str], float]
# So many rounds taken back in a row end a run: each costs the sites privacy, and nothing comes of it.
MOST_IN_A_ROW = 3


class PublicGate:
    """Judges rounds by ``rounds.public_step`` and ``rounds.public_worst``; what it knows stands in the history."""

    def __init__(self, config: RunConfig, check: Check) -> None:
        self._config, self._check = config, check

    def standing(self, number: int, vector: Vector, last: RoundRecord | None) -> PublicVerdict:
        """Where round ``number`` starts from: ``vector`` (d,) after the record ``last``, the best so far beside it.

        To be asked for before the sites are: whatever is wrong with the check then costs them nothing.
        """
        same_part = last is not None and self._of_base(last.round) == self._of_base(number)
        known = last.public if last is not None and same_part else None
        gy = self._check(vector, self._stage(number)) if known is None else known.stands_gy
        best_gy = gy if known is None else min(known.best_gy, gy)
        return PublicVerdict(before_gy=gy, best_gy=best_gy, after_gy=gy)

    def verdict(self, number: int, standing: PublicVerdict, after: Vector) -> PublicVerdict:
        """Judge round ``number``, which leads from where it stood to ``after`` (d,)."""
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
        """Whether a round trains the base, which is scored alone."""
        return self._stage(number) == "base"


def stopped(history: Sequence[RoundRecord]) -> str:
    """In words why a run ends before its last round: its last rounds were all taken back; empty where they were not."""
    last = history[-MOST_IN_A_ROW:]
    if len(last) < MOST_IN_A_ROW or not all(record.rolled_back for record in last):
        return ""
    return (
        f"rounds {last[0].round} to {last[-1].round} were taken back, since each made public patients worse: a site may"
        " send poison, the noise may be too large, or the steps (train.lr, train.base_lr)"
    )


def judged(history: Sequence[RoundRecord]) -> dict[str, Any]:
    """What a report and a card say of it: error (Gy) before the first judged round and now, rounds taken back, why."""
    verdicts = [record.public for record in history if record.public is not None]
    if not verdicts:
        return {}
    return {
        "start_gy": round(verdicts[0].before_gy, 3),
        "end_gy": round(verdicts[-1].stands_gy, 3),
        "taken_back": [record.round for record in history if record.rolled_back],
        "stopped": stopped(history),
    }


def stopped_lines(report: Mapping[str, Any]) -> list[str]:
    """The line with which a table says that the run of this report or summary ended early; none where it did not."""
    why = report.get("public", {}).get("stopped")
    return [f"STOPPED: {why}"] if why else []

"""What the site's own reference plans score under a scorecard: the numbers that the card editor shows as one edits.

By the code of `client align` and `client report` (client/adapters/scores.py): of a plan they all say the same. Plans
are counted from 1, the held-back patients first, and no id of theirs is told.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch

from client.adapters.scores import PlanScore, cohort_means, criteria_table, score_of_values
from client.cards.kept_plans import KeptPlan, KeptPlans, value_key
from client.site.home import ClientHome
from shared_model.core.errors import InputError
from shared_model.scoring.bound import AppliedCriteria
from shared_model.scoring.scorecard import Criterion, Scorecard

MOST_PLANS = 20


def preview(
    home: ClientHome, card: Scorecard, most: int = MOST_PLANS, seconds: float = math.inf, *, again: bool = False
) -> dict[str, Any]:
    """Score the site's first ``most`` plans that have a dose. ``again``: read the site's files again first.

    It begins to read no further plan after ``seconds``, counted from the first, or after as long as that one took.
    ``waiting`` then says how many are left for the next call, which goes on from there.
    """
    plans, clock = KeptPlans(home), _Clock(seconds)
    if again:
        plans.forget_all()
    valued: list[KeptPlan] = []
    waiting = left_out = 0
    for case_id in plans.case_ids:
        if len(valued) + waiting == most:
            break
        plan = plans.kept(case_id)
        if plan is None or plan.lacks(card):
            if clock.is_over():
                waiting += 1
                continue
            plan = _valued(plans, plan or plans.read(case_id), card)
            clock.worked()
        if plan.usable:
            valued.append(plan)
        else:
            left_out += 1
    return {"waiting": waiting, "left_out": left_out, **_record(card, valued)}


class _Clock:
    """The time for reading. It starts with the first plan, which may cost a search through all of a site's files."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._began = seconds, time.monotonic()
        self._end = math.inf

    def worked(self) -> None:
        """Note that a plan was read."""
        if self._end == math.inf:
            now = time.monotonic()
            self._end = now + max(self._seconds, now - self._began)

    def is_over(self) -> bool:
        """Whether to stop."""
        return time.monotonic() > self._end


def _valued(plans: KeptPlans, plan: KeptPlan, card: Scorecard) -> KeptPlan:
    if not plan.usable:
        return plan
    try:
        return plans.valued(plan, card)
    except InputError:  # what is kept is damaged
        plan = plans.read(plan.case_id)
        return plans.valued(plan, card) if plan.usable else plan


def _record(card: Scorecard, plans: Sequence[KeptPlan]) -> dict[str, Any]:
    scores = [_score(card, plan) for plan in plans]
    having = [score for score in scores if score is not None]
    table = criteria_table(card, {"reference": having})
    failed = {c.id: sum(_fails(c, score) for score in having) for c in card.criteria}
    most = max(failed.values())
    return {
        "card": {"name": card.name, "version": card.version, "sha256": card.sha256},
        "plans": len(plans),
        "score": cohort_means(having)["score"] if having else None,
        "criteria": [{**entry, "failed": failed[entry["id"]]} for entry in table],
        "most_failed": {"ids": [name for name, count in failed.items() if count == most], "plans": most}
        if most
        else None,
        "per_plan": [_brief(card, number, score) for number, score in enumerate(scores, 1)],
    }


def _score(card: Scorecard, plan: KeptPlan) -> PlanScore | None:
    """Score one plan; None if the card has no criterion for it."""
    known = {c: value for c in card.criteria if (value := plan.values[value_key(c)]) is not None}
    if not known:
        return None
    return score_of_values(AppliedCriteria(tuple(known)), torch.tensor([list(known.values())], dtype=torch.float64))


def _fails(c: Criterion, score: PlanScore) -> bool:
    """Whether a plan misses the criterion's limit or hard constraint; with neither, whether it gets no point."""
    if c.id not in score.values:
        return False
    bounds = [bound for bound in (c.limit, c.constraint) if bound is not None]
    sign = 1.0 if c.higher else -1.0
    if bounds:
        return any(sign * score.values[c.id] < sign * bound for bound in bounds)
    return score.points[c.id] == 0.0


def _brief(card: Scorecard, number: int, score: PlanScore | None) -> dict[str, Any]:
    if score is None:
        return {"plan": number, "score": None, "failed": [], "broken": []}
    failed = [c.id for c in card.criteria if _fails(c, score)]
    return {"plan": number, "score": score.score, "failed": failed, "broken": list(score.broken)}

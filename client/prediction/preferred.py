"""A predicted dose moved to what a site's scorecard asks for, as far as plans do so (shared_model/tradeoff)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from shared_model.bundled import TRADEOFF
from shared_model.core.errors import InputError
from shared_model.patient.case import Case
from shared_model.scoring.bound import BoundCard
from shared_model.tradeoff.patient import tradeoff_patient
from shared_model.tradeoff.saved import Tradeoff
from shared_model.tradeoff.steer import Steering, best, steer

MOST_CANDIDATES = 64
# A site's scorecard bound to one case.
CardOf = Callable[[Case], BoundCard]


@dataclass(frozen=True, kw_only=True)
class Preference:
    """``card_of``: the site's scorecard for a case. ``best_of``: choose among so many plan-like doses; None: steer."""

    card_of: CardOf
    best_of: int | None = None

    def __post_init__(self) -> None:
        if self.best_of is not None and not 2 <= self.best_of <= MOST_CANDIDATES:
            raise InputError(f"--best-of {self.best_of}: expected 2 to {MOST_CANDIDATES}")

    @property
    def words(self) -> str:
        """How the dose was chosen, for reports."""
        return "steered by the scorecard" if self.best_of is None else f"the best of {self.best_of} plan-like doses"


@dataclass(frozen=True, kw_only=True)
class Preferred:
    """The dose (z, y, x) Gy on the case's grid; scores of 100 of the dose as predicted and of what was tried."""

    dose_gy: Tensor
    scores: tuple[float, ...]
    notes: tuple[str, ...]


@lru_cache(maxsize=1)
def _bundled() -> Tradeoff:
    return Tradeoff.load(TRADEOFF)


def has_tradeoff(body_site: str) -> bool:
    """Whether the bundled trade-off network is for models of this site of the body."""
    return _bundled().body_site == body_site


def tradeoff_of(body_site: str) -> Tradeoff:
    """The bundled trade-off network. InputError where it is of another site of the body than the model."""
    found = _bundled()
    if found.body_site != body_site:
        raise InputError(f"plan-like doses: expected a model of {found.body_site}, this one is of {body_site}")
    return found


def preferred(case: Case, dose_gy: Tensor, how: Preference, body_site: str, seed: int) -> Preferred:
    """Move ``dose_gy`` (z, y, x) on the case's grid. InputError for a site of the body that no network is for."""
    tradeoff = tradeoff_of(body_site)
    card = how.card_of(case)
    patient = tradeoff_patient(case, dose_gy.numpy(), body_site)
    shape = tuple(case.grid.shape)
    if how.best_of is not None:
        chosen = best(tradeoff, patient, card, how.best_of, seed, shape)
        note = f"score {chosen.scores[0]:.1f} as predicted, {max(chosen.scores):.1f} the best of {how.best_of} doses"
        return Preferred(dose_gy=chosen.dose_gy, scores=chosen.scores, notes=(note,))
    moved = steer(tradeoff, patient, card, Steering(), shape)
    note = (
        f"score {moved.before:.1f} as predicted, {moved.after:.1f} steered; the change is {moved.unusual:.1f} standard "
        "deviations of how plans differ"
    )
    return Preferred(dose_gy=moved.dose_gy, scores=(moved.before, moved.after), notes=(note,))

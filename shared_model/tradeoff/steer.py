"""Doses that differ as plans do: candidates about a predicted dose, and the one that a scorecard asks for.

Both move the dose by changes of its histograms' points, L u, where L is a root of how plans differ (prior.py). A
candidate's u is normal. A steered dose's u maximises

    score(dose(u)) - penalty * broken constraints - price / 2 * |u|^2

by gradient ascent through the scorecard and the network: per patient, without any training at the hospital. The last
term keeps the dose within what plans do: at the optimum each step along u earns what it costs in likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from shared_model.core.errors import InputError
from shared_model.network.seeding import noise_generator
from shared_model.scoring.bound import BoundCard
from shared_model.tradeoff.patient import TradeoffPatient
from shared_model.tradeoff.saved import Tradeoff


@dataclass(frozen=True, kw_only=True)
class Steering:
    """``price``: points of 100 that one |u|^2 / 2 costs. ``most``: of |u|. ``penalty``: as in an alignment's settings.

    ``steps`` of ``rate`` in units of u. ``soft_gy``: width of the step in a volume at a dose while climbing.
    """

    price: float = 0.6
    most: float = 2.25
    penalty: float = 5.0
    steps: int = 12
    rate: float = 0.3
    soft_gy: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise InputError(f"steering: {field.name} must be a number")
        if not 0.01 <= self.price <= 1000 or not 0 < self.most <= 1000:
            raise InputError("steering: expected price 0.01 to 1000, most above 0 and up to 1000")
        if not 0 <= self.penalty < 1e6 or not 1 <= self.steps <= 1000:
            raise InputError("steering: expected penalty 0 or more, steps 1 to 1000")


@dataclass(frozen=True, kw_only=True)
class Steered:
    """``dose_gy`` (z, y, x) on the case's grid, scores of 100 before and after, and |u|, how unusual the change is."""

    dose_gy: Tensor
    before: float
    after: float
    unusual: float


def steer(
    tradeoff: Tradeoff, patient: TradeoffPatient, card: BoundCard, how: Steering, shape: tuple[int, ...]
) -> Steered:
    """The dose that the scorecard asks for. ``shape``: of the case.

    It is the best met on the climb by the exact score less the price, and never scores below the predicted dose: the
    predicted dose, where nothing met is better.
    """
    root = tradeoff.prior.root(patient.points.places)
    u = torch.zeros(1, len(root), requires_grad=True)
    moved = patient.mover(tradeoff.network)
    start = patient.in_gy(patient.dose[None], shape)
    before = float(card.score(start.double())[0])
    found = Steered(dose_gy=start[0], before=before, after=before, unusual=0.0)
    most = float(_worth(card, start.double(), how, 0.0))
    optimiser = torch.optim.Adam([u], lr=how.rate)
    for step in range(how.steps + 1):
        dose = patient.in_gy(moved(u @ root.T), shape)
        unusual = float(u.detach().norm())
        exact = dose.detach().double()
        after, worth = float(card.score(exact)[0]), float(_worth(card, exact, how, 0.0)) - how.price / 2 * unusual**2
        if after >= before and worth > most:
            most = worth
            found = Steered(dose_gy=dose[0].detach(), before=before, after=after, unusual=unusual)
        if step == how.steps:
            break
        loss = how.price / 2 * u.square().sum() - _worth(card, dose, how, how.soft_gy)
        (u.grad,) = torch.autograd.grad(loss, [u])
        optimiser.step()
        with torch.no_grad():
            u *= (how.most / u.norm().clamp_min(1e-9)).clamp_max(1.0)
    return found


def _worth(card: BoundCard, dose_1zyx: Tensor, how: Steering, soft_gy: float) -> Tensor:
    """Score of one dose less what its broken constraints cost, (), points of 100."""
    values = card.values(dose_1zyx, soft_gy)
    weights = torch.tensor([c.weight for c in card.criteria], dtype=values.dtype)
    broken = (card.violations(values) * weights).sum()
    worth: Tensor = 100.0 * (card.points(values).sum() - how.penalty * broken) / card.weight
    return worth


@dataclass(frozen=True, kw_only=True)
class Best:
    """All doses (k, z, y, x) in Gy and their scores of 100, the predicted dose first."""

    doses_gy: Tensor
    scores: tuple[float, ...]

    @property
    def dose_gy(self) -> Tensor:
        """The one that scores highest, (z, y, x); of equal ones the first."""
        return self.doses_gy[self.scores.index(max(self.scores))]


def best(
    tradeoff: Tradeoff, patient: TradeoffPatient, card: BoundCard, count: int, seed: int, shape: tuple[int, ...]
) -> Best:
    """The best of ``count`` doses by the scorecard: the predicted one and ``count`` - 1 candidates about it."""
    drawn = candidates(tradeoff, patient, count - 1, plan_noise(seed), shape)
    doses = torch.cat([patient.in_gy(patient.dose[None], shape), drawn])
    return Best(doses_gy=doses, scores=tuple(card.score(doses.double()).tolist()))


def plan_noise(seed: int) -> torch.Generator:
    """What candidates of a prediction are drawn with: it depends on the seed alone."""
    return noise_generator(seed, "tradeoff")


@torch.no_grad()
def candidates(
    tradeoff: Tradeoff,
    patient: TradeoffPatient,
    count: int,
    generator: torch.Generator,
    shape: tuple[int, ...],
    *,
    batch: int = 4,
) -> Tensor:
    """``count`` doses (k, z, y, x) Gy on the case's grid. Pairs have opposite u, so their mean is near the prediction.

    The first candidates are the same however many are asked for.
    """
    root = tradeoff.prior.root(patient.points.places) * tradeoff.spread
    moved = patient.mover(tradeoff.network)
    half = torch.stack([torch.randn(len(root), generator=generator) for _ in range((count + 1) // 2)])
    u = torch.stack([half, -half], dim=1).flatten(0, 1)[:count]
    return torch.cat([patient.in_gy(moved(part @ root.T), shape) for part in u.split(batch)])

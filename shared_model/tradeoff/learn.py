"""What one patient teaches the trade-off network: to reach their plan's dose, given where the plan's points lie.

The wanted changes are those that the plan made: its points minus the predicted dose's. Each patient is asked twice at
once: with all points given, and with some withheld, so that the network also answers where only a few are given, and
leaves the dose as it is where none is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shared_model.scoring.dvh_distance import dvh_distance
from shared_model.tradeoff.network import TradeoffNetwork
from shared_model.tradeoff.patient import TradeoffPatient

# Weights beside the mean absolute error in the body: histograms of structures, and the points that were asked for.
HISTOGRAMS, ASKED = 0.15, 0.5
# How often no point is given in the second question; else each with a chance that is drawn for the sample.
NONE_SHARE = 0.25


def lesson(network: TradeoffNetwork, patient: TradeoffPatient, generator: torch.Generator) -> Tensor:
    """The loss (), of one patient with a reference dose; what is given is drawn from ``generator``."""
    assert patient.reference is not None
    change = patient.apart.expand(2, -1)
    chance = torch.rand((), generator=generator)
    if torch.rand((), generator=generator) < NONE_SHARE:
        chance = torch.zeros(())
    some = (torch.rand(change.shape[1], generator=generator) < chance).float()
    given = torch.stack([torch.ones_like(some), some])
    doses = patient.moved(network, patient.see(network), change, given)
    inside = patient.body > 0
    error = (doses - patient.reference).abs()[:, inside].mean()
    reached = patient.points.values(doses) - patient.now
    missed = ((reached - change).abs() * given).sum() / given.sum()
    plans = patient.points.doses(patient.reference)
    apart = [
        dvh_distance(ours, theirs)
        for dose in doses
        for ours, theirs in zip(patient.points.doses(dose), plans, strict=True)
    ]
    loss: Tensor = error + HISTOGRAMS * torch.stack(apart).mean() + ASKED * missed
    return loss

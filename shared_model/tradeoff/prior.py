"""By how much plans' points differ from a predicted dose's, and together: the covariance that bounds what is asked for.

A point that lies one standard deviation off is ordinary. Targets' and organs' points differ together, as one plan's
do: asking along the covariance keeps what is asked plan-like.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from shared_model.core.errors import InputError
from shared_model.tradeoff.points import POINTS

# Fewer patients than this share a pair of points: taken as independent.
_LEAST_PAIRS = 6
# Part of the covariance that is replaced by its diagonal: pairs are estimated from a hundred patients.
_SHRINK = 0.1
_FLOOR = 1e-6


class ChangePrior:
    """``covariance`` (len(POINTS), len(POINTS)) of points about those of the predicted dose; 1 is the prescription."""

    def __init__(self, covariance: Tensor) -> None:
        self.covariance = covariance

    @classmethod
    def of(cls, found: Iterable[tuple[Sequence[int], Tensor]]) -> ChangePrior:
        """From patients' (places in POINTS, differences (p,)). InputError where no patient has a point."""
        rows = []
        for places, apart in found:
            row = torch.full((len(POINTS),), torch.nan, dtype=torch.float64)
            row[list(places)] = apart.double()
            rows.append(row)
        if not rows:
            raise InputError("no patient with a reference dose: nothing says how plans differ")
        table = torch.stack(rows)
        there = ~table.isnan()
        centred = torch.where(there, table - table.nanmean(0).nan_to_num(), 0.0)
        pairs = there.double().T @ there.double()
        together = centred.T @ centred / pairs.clamp_min(1.0)
        together = torch.where(pairs >= _LEAST_PAIRS, together, torch.zeros(()).double())
        together = (1 - _SHRINK) * together + _SHRINK * torch.diag(together.diag())
        values, vectors = torch.linalg.eigh(together)
        return cls(((vectors * values.clamp_min(_FLOOR)) @ vectors.T).float())

    def root(self, places: Sequence[int]) -> Tensor:
        """L (p, p) of a patient's points: L z of standard normal z is a difference as plans have it."""
        chosen = self.covariance[list(places)][:, list(places)].double()
        found: Tensor = torch.linalg.cholesky(chosen + _FLOOR * torch.eye(len(chosen), dtype=torch.float64))
        return found.float()

    def deviation(self) -> Tensor:
        """Standard deviation of each of POINTS, (len(POINTS),)."""
        return self.covariance.diag().sqrt()

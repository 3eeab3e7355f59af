"""The sum of the sites' noised releases modulo a power of two, from secure aggregation, and its mean."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from privacy.dp.encoding import RING_TYPES, Ring
from privacy.dp.terms import PrivacyTerms
from shared_model.core.errors import FedKT3DError

Mask = NDArray[np.bool_]


class RingSum:
    """Sum (k,) of releases of the k numbers that ``mask`` (d,) selects; FedKT3DError for another size or ring."""

    def __init__(self, terms: PrivacyTerms, mask: Mask, total: Ring) -> None:
        self._terms, self._mask = terms, mask
        self._how = terms.encoding()
        size, kind = int(mask.sum()), np.dtype(RING_TYPES[self._how.bits])
        if total.shape != (size,) or total.dtype != kind:
            raise FedKT3DError(f"ring sum: expected {size} numbers of {self._how.bits} bits, got {total.size}")
        self.total = total

    def mean(self) -> NDArray[np.float64]:
        """Decode the sum and divide it by the public divisor: (d,) float64, zero where ``mask`` is false."""
        out = np.zeros(self._mask.size)
        out[self._mask] = self._how.decode(self.total) / self._terms.divisor
        return out

    def excess(self) -> str:
        """Return in words why the norm shows that this is no sum of honest releases; empty text if it can be one.

        No single release can be judged. Their sum has at most one clipping norm per unit, plus noise of known size.
        """
        terms, how = self._terms, self._how
        norm = float(np.linalg.norm(how.decode(self.total)))
        sigma = math.hypot(terms.z_alone * terms.clip, how.step * terms.clip / 2**18 / 3.0) * math.sqrt(terms.sites)
        d = self.total.size
        # The norm of d Gaussians exceeds sqrt(d) + 8 once in 10^14.
        limit = terms.units * terms.clip + sigma * (math.sqrt(d) + 8.0)
        return "" if norm <= limit else f"the sum's norm {norm:.4g} is above {limit:.4g}, the limit of its terms"

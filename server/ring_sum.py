"""The sum of the sites' noised releases modulo a power of two, decoded only when it is whole.

Secure aggregation yields the very same sum, without the coordinator seeing a site's release; here it adds them itself.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from privacy.encoding import RING_TYPES, Ring, add_to
from privacy.modes import Terms
from server.aggregate import UpdateRejectedError
from shared_model.errors import FedKT3DError

Mask = NDArray[np.bool_]


class RingSum:
    """Sum of releases of the numbers that ``mask`` (d,) names, from at most ``terms.sites`` sites."""

    def __init__(self, terms: Terms, mask: Mask) -> None:
        self._terms, self._mask = terms, mask
        self._how = terms.encoding()
        self._sum: Ring = np.zeros(int(mask.sum()), dtype=RING_TYPES[self._how.bits])
        self.count = 0

    def add(self, ring: Ring) -> None:
        """Add a site's release; UpdateRejectedError with reason wrong_shape where it is of another size or ring."""
        if ring.shape != self._sum.shape or ring.dtype != self._sum.dtype:
            raise UpdateRejectedError(
                "wrong_shape", f"expected {self._sum.size} numbers of {self._how.bits} bits, got {ring.size}"
            )
        if self.count == self._terms.sites:
            raise FedKT3DError(f"ring sum: more than the {self._terms.sites} sites that its terms name")
        add_to(self._sum, ring)
        self.count += 1

    def set(self, total: Ring, count: int) -> None:
        """Take the whole sum of ``count`` sites at once, as secure aggregation yields it."""
        self._sum[:] = 0
        self.add(total)
        self.count = count

    def mean(self) -> NDArray[np.float64]:
        """Decode the sum over the public divisor, (d,) float64; zero where ``mask`` is false."""
        if self.count == 0:
            raise FedKT3DError("ring sum: no release was added, so there is no mean")
        out = np.zeros(self._mask.size)
        out[self._mask] = self._how.decode(self._sum) / self._terms.divisor
        return out

    def excess(self) -> str:
        """In words why this cannot be a sum of honest releases, judged by its norm; empty where it can be.

        No single release can be judged. Their sum has at most one clipping norm a unit, and noise of known size.
        """
        terms, how = self._terms, self._how
        norm = float(np.linalg.norm(how.decode(self._sum)))
        sigma = math.hypot(terms.z_alone * terms.clip, how.step * terms.clip / 2**18 / 3.0) * math.sqrt(terms.sites)
        d = self._sum.size
        # The norm of d Gaussians exceeds sqrt(d) + 8 once in 10^14.
        limit = terms.units * terms.clip + sigma * (math.sqrt(d) + 8.0)
        return "" if norm <= limit else f"the sum's norm {norm:.4g} is above {limit:.4g}, what its terms allow"

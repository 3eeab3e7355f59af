"""What a sum under masks is, by its mode: noised releases (RingSum) or the exact sum of updates (MaskedSum)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.dp.encoding import Ring
from privacy.dp.terms import SUMMED, PrivacyTerms
from privacy.secagg.exact_sums import MaskTerms
from privacy.wire.tasks import METRICS
from server.config.privacy import mask_terms, run_terms
from server.config.run import RunConfig
from server.rounds.ring_sum import Mask, RingSum
from shared_model.core.errors import FedKT3DError
from shared_model.core.fields import MessageError


class MaskedSum:
    """Exact sum of updates (d,) and what travelled with it: the weight of all sites, and their means.

    FedKT3DError for another length or ring.
    """

    def __init__(self, terms: MaskTerms, size: int, names: tuple[str, ...], total: Ring) -> None:
        self._terms = terms
        try:
            self._sum = terms.decode(total, size, names)
        except MessageError as error:
            raise FedKT3DError(str(error)) from error
        self.total = total

    @property
    def means(self) -> Mapping[str, float]:
        """Means over the sites by weight: losses, scores."""
        return self._sum.means

    def mean(self) -> NDArray[np.float64]:
        """Return the weighted mean update, (d,) float64."""
        return self._sum.weighted / self._sum.weight

    def excess(self) -> str:
        """Return in words why this is no sum of honest updates; empty text if it can be one."""
        weight, most = self._sum.weight, self._terms.most_weight
        if not 1 <= weight <= most:
            what = "patients" if self._terms.weighting == "patients" else "sites"
            return f"the sites' weights add up to {weight} {what}, and its terms declare {most}; declare what there are"
        norm = float(np.linalg.norm(self._sum.weighted))
        rounding = self._terms.step * self._terms.sites * float(np.sqrt(self._sum.weighted.size))
        limit = weight * self._terms.bound + rounding
        return "" if norm <= limit else f"the sum's norm {norm:.4g} is above {limit:.4g}, the limit of its terms"


@dataclass(frozen=True, kw_only=True)
class SumForm:
    """Terms of a run's sums. ``noise``: None in mode masked; ``exact``: None where noise is drawn in the ring."""

    noise: PrivacyTerms | None
    exact: MaskTerms | None

    @classmethod
    def of(cls, config: RunConfig) -> SumForm | None:
        """Return the terms that a run's configuration asks for; None in mode none. InputError where none fit."""
        if config.privacy.mode not in SUMMED:
            return None
        return cls(noise=run_terms(config), exact=mask_terms(config))

    @property
    def who(self) -> PrivacyTerms | MaskTerms:
        """The terms that say how many sites there are, and how many are in a sum."""
        terms = self.exact or self.noise
        assert terms is not None
        return terms

    @property
    def frozen(self) -> bool:
        """Whether all sums are over the same sites."""
        return self.noise is None

    @property
    def ring_bits(self) -> int:
        """Bits of the ring."""
        if self.exact is not None:
            return self.exact.ring_bits
        assert self.noise is not None
        return self.noise.encoding().bits

    def length(self, mask: Mask) -> int:
        """Return how many ring numbers a site sends in a round whose stage trains ``mask`` (d,)."""
        return int(mask.sum()) if self.exact is None else self.exact.length(mask.size, self._names)

    def read(self, mask: Mask, total: Ring) -> RingSum | MaskedSum:
        """Read a round's sum."""
        if self.exact is not None:
            return MaskedSum(self.exact, mask.size, self._names, total)
        assert self.noise is not None
        return RingSum(self.noise, mask, total)

    def read_scores(self, total: Ring) -> MaskedSum:
        """Read a sum of scores."""
        assert self.exact is not None
        return MaskedSum(self.exact, 0, METRICS, total)

    @property
    def _names(self) -> tuple[str, ...]:
        return METRICS if self.noise is None else ()

"""No base: the network learns the dose itself, as in the paper."""

from __future__ import annotations

from shared_model.base.interface import Base
from shared_model.channels.features import Features
from shared_model.patient.case import Case, Volume


class NoBase(Base):
    """Gives no dose."""

    def dose(self, case: Case, features: Features, weights: bytes) -> Volume | None:
        """None: there is no base dose."""
        return None

"""What a run of rounds ends with: its result, or the error that too few sites answered."""

from __future__ import annotations

from dataclasses import dataclass

from server.record.history import Drop, RoundRecord
from shared_model.core.errors import FedKT3DError
from shared_model.core.vector import Vector


@dataclass(frozen=True, kw_only=True)
class FederationResult:
    """Result of a finished run. ``vector`` (d,) float32; ``sites``: each site that described itself, with its patients.

    ``drops`` are nodes that never became a site; ``history`` holds the drops within rounds. ``wire_bytes_per_round`` is
    the mean payload of the training exchange in both directions. ``resumed_from`` counts rounds done before this start.
    ``stopped``: why the run ended before its last round, in words; otherwise empty.
    """

    vector: Vector
    rounds: int
    sites: dict[str, int]
    history: tuple[RoundRecord, ...]
    drops: tuple[Drop, ...]
    wire_bytes_per_round: int
    resumed_from: int
    stopped: str = ""


class QuorumError(FedKT3DError):
    """Too few sites gave a usable update in every attempt at a round. The last checkpoint is kept."""

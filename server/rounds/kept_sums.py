"""Sums of a run under masks, saved as they were unmasked: ``OUT/sums/ROUND.npz``, one for each finished round.

That of the statistics before the first round (server/rounds/patient_counts.py) is round 0's.

In mode none there are no such sums. With ``rounds.keep=means`` what each round joined is saved in their place.

A sum is on the disk before the optimiser uses it. A coordinator that dies in between goes on with the saved sum. If it
asked the sites again, they would release, and charge, a second time. These files hold everything that went into an
adapter (server/rounds/advance.py).
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from privacy.dp.encoding import Ring
from server.record.history import Drop
from server.rounds.masked_sum import MaskedSum, SumForm
from server.rounds.ring_sum import Mask
from server.rounds.steps import TrainOutcome
from shared_model.core.files import ORDINARY, write_bytes

_FOLDER = "sums"
BEFORE = 0  # the round of what is summed before the first one


@dataclass(frozen=True, kw_only=True)
class KeptSum:
    """A round's sum (k,) over ``sites``, None if the round failed; the attempt that gave it, and what was dropped.

    Of mode none it is what the round joined, (d,) float64.
    """

    run_id: str
    attempt: int
    total: Ring | NDArray[np.float64] | None
    sites: tuple[str, ...]
    drops: tuple[Drop, ...]
    wire_bytes: int
    wall_s: float

    @property
    def ring(self) -> Ring:
        """The sum of a mode with masks."""
        assert self.total is not None
        return cast(Ring, self.total)

    def outcome(self, form: SumForm, mask: Mask) -> TrainOutcome:
        """Return the outcome of the exchange that gave this sum."""
        total = None if self.total is None else form.read(mask, self.ring)
        return TrainOutcome(
            total=total,
            sites=dict.fromkeys(self.sites, 1),
            norms={},
            metrics=dict(total.means) if isinstance(total, MaskedSum) else {},
            per_site={site: {} for site in self.sites},
            drops=self.drops,
            wire_bytes=self.wire_bytes,
            wall_s=self.wall_s,
        )


@dataclass(frozen=True, kw_only=True)
class KeptMean:
    """What a round of mode none joined, (d,) float64, read from its file."""

    total: NDArray[np.float64]

    def mean(self) -> NDArray[np.float64]:
        """Return it."""
        return self.total


def keep_mean(out: Path, number: int, run_id: str, attempt: int, outcome: TrainOutcome) -> None:
    """Write what a round of mode none joined; StorageError when the disk is full."""
    kept = KeptSum(
        run_id=run_id,
        attempt=attempt,
        total=outcome.numbers,
        sites=tuple(outcome.sites),
        drops=outcome.drops,
        wire_bytes=outcome.wire_bytes,
        wall_s=outcome.wall_s,
    )
    keep_sum(out, number, kept)


def keep_sum(out: Path, number: int, kept: KeptSum) -> None:
    """Write a round's sum durably, over any sum that an earlier run left; StorageError when the disk is full."""
    path = _path(out, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {key: value for key, value in asdict(kept).items() if key != "total"}
    content = io.BytesIO()
    np.savez(content, total=np.asarray(kept.total), told=np.frombuffer(json.dumps(told).encode(), np.uint8))
    write_bytes(path, content.getvalue(), mode=ORDINARY)


def read_sum(out: Path, number: int) -> KeptSum | None:
    """Return a round's saved sum; None when there is no file or it is damaged (zip has checksums of its own)."""
    try:
        with np.load(_path(out, number), allow_pickle=False) as file:
            told = json.loads(file["told"].tobytes())
            total = file["total"]
        drops = tuple(Drop(**drop) for drop in told.pop("drops"))
        return KeptSum(**{**told, "sites": tuple(told["sites"])}, drops=drops, total=total)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None


def _path(out: Path, number: int) -> Path:
    return out / _FOLDER / f"{number:08d}.npz"

"""What a run knows of the sites' patients: their noised counts, in ``OUT/patient_counts.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_text

FILE = "patient_counts.json"


@dataclass(frozen=True, kw_only=True)
class PatientCounts:
    """``counts`` of all ``sites`` together, empty until they are there; each has noise of ``noise_sd`` patients.

    ``asked``: how often the sites were asked, and so charged; more than once where a coordinator died in between.
    ``failed``: why there are none, in words.
    """

    run_id: str
    asked: int
    counts: tuple[float, ...] = ()
    noise_sd: float = 0.0
    sites: tuple[str, ...] = ()
    failed: str = ""

    @classmethod
    def read(cls, out: Path) -> PatientCounts | None:
        """Return what the run in ``out`` knows of its patients; None where it did not ask. InputError when damaged."""
        path = out / FILE
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**found, "counts": tuple(found["counts"]), "sites": tuple(found["sites"])})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: cannot be read ({type(error).__name__}); restore it, or delete it") from error

    def write(self, out: Path) -> None:
        """Write it whole; StorageError when the disk is full."""
        write_text(out / FILE, json.dumps(asdict(self), indent=1), mode=ORDINARY)

    def trained_on(self, patients: int) -> dict[str, Any] | None:
        """Return the card's ``trained_on`` for so many declared patients; None where there are no counts."""
        from shared_model.adapter.envelope_counts import noised_envelope

        if not self.counts:
            return None
        found = noised_envelope(np.array(self.counts), self.noise_sd, patients)
        return {**found.record(), "noise_sd": float(f"{self.noise_sd:.4g}"), "sites": len(self.sites)}

"""Whether a new shared adapter may replace the one in use: DVH non-inferiority on the site's held-back patients.

For each held-back patient the dose of both adapters is compared with the reference plan. The difference of the two
errors, new minus current, is averaged over patients, and its one-sided upper confidence bound (Student's t; patients
are the independent units) must stay below a margin: non-inferiority, not superiority. The test checks the dose score,
a patient's DVH score, and each structure's DVH errors, with a wider margin because there are many. A site's first
adapter is checked against absolute limits instead. The margins are ours and need a physicist's review.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from shared_model.core.errors import InputError
from shared_model.scoring.dosimetry import CaseScore


@dataclass(frozen=True, kw_only=True)
class Margins:
    """Margins in Gy. ``confidence`` is one-sided. Fewer than ``least_patients`` prove nothing: the test is refused."""

    dose_score_gy: float = 0.3
    dvh_score_gy: float = 0.3
    structure_gy: float = 1.5
    first_dose_score_gy: float = 8.0
    first_dvh_score_gy: float = 10.0
    confidence: float = 0.95
    least_patients: int = 3


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison over ``patients``: ``mean`` and its upper confidence ``bound`` against ``margin``, all in Gy."""

    name: str
    patients: int
    mean: float
    bound: float
    margin: float

    @property
    def passed(self) -> bool:
        """Whether the bound is below the margin."""
        return self.bound < self.margin


@dataclass(frozen=True, kw_only=True)
class AdoptionVerdict:
    """All checks of one decision."""

    checks: tuple[Check, ...]

    @property
    def accepted(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """The worst failure in words; for the site's staff alone."""
        failed = [check for check in self.checks if not check.passed]
        if not failed:
            return "not inferior"
        worst = max(failed, key=lambda check: check.bound - check.margin)
        return f"{worst.name}: worse by up to {worst.bound:.2f} Gy, allowed {worst.margin:g} Gy"

    def record(self) -> dict[str, Any]:
        """As JSON."""
        checks = [{**asdict(check), "passed": check.passed} for check in self.checks]
        return {"accepted": self.accepted, "reason": self.reason, "checks": checks}


def non_inferior(new: Sequence[CaseScore], current: Sequence[CaseScore], margins: Margins) -> AdoptionVerdict:
    """Compare two adapters on the same patients, in the same order; InputError on too few."""
    _enough(new, margins)
    pairs = list(zip(new, current, strict=True))
    checks = [
        _check("dose score", [n.dose_score_gy - c.dose_score_gy for n, c in pairs], margins.dose_score_gy, margins),
        _check("DVH score", [_dvh(n) - _dvh(c) for n, c in pairs], margins.dvh_score_gy, margins),
    ]
    for name in sorted({metric for score in new for metric in score.dvh_errors}):
        found = [n.dvh_errors[name] - c.dvh_errors[name] for n, c in pairs if name in n.dvh_errors]
        if len(found) >= margins.least_patients:
            checks.append(_check(name, found, margins.structure_gy, margins))
    return AdoptionVerdict(checks=tuple(checks))


def good_enough(new: Sequence[CaseScore], margins: Margins) -> AdoptionVerdict:
    """Check a site's first adapter against absolute limits; InputError on too few patients."""
    _enough(new, margins)
    return AdoptionVerdict(
        checks=(
            _check("dose score", [score.dose_score_gy for score in new], margins.first_dose_score_gy, margins),
            _check("DVH score", [_dvh(score) for score in new], margins.first_dvh_score_gy, margins),
        )
    )


def _enough(scores: Sequence[CaseScore], margins: Margins) -> None:
    if len(scores) < margins.least_patients:
        raise InputError(
            f"acceptance: {len(scores)} held-back patients with a reference dose; expected at least "
            f"{margins.least_patients}: list more under validation in site.yaml"
        )


def _dvh(score: CaseScore) -> float:
    errors: Mapping[str, float] = score.dvh_errors
    return float(np.mean(list(errors.values()))) if errors else 0.0


def _check(name: str, differences: Sequence[float], margin: float, margins: Margins) -> Check:
    n, mean = len(differences), float(np.mean(differences))
    error = float(np.std(differences, ddof=1)) / n**0.5
    bound = mean + float(stats.t.ppf(margins.confidence, n - 1)) * error
    return Check(name=name, patients=n, mean=mean, bound=bound, margin=margin)

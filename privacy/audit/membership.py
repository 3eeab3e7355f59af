"""Membership from one update: was this patient in the cohort?

The attacker has the model and the patient's clipped gradient g. An attacker who also knows the sum of all others scores
<update - others, g>. On a plain update that score gives the answer with certainty. Under noise z C the score is a
Gaussian, which a member shifts by one part in z, and no attacker reaches an AUC above Phi(1 / (z sqrt 2)). Where
gradients have little in common, a plain sum gives its members away even to an attacker who knows nobody else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.audit.one_run import Release, deployed_release
from privacy.dp.encoding import Ring, add_to
from privacy.dp.noise import NoiseStream
from privacy.dp.release import clipped_sum
from privacy.dp.terms import PrivacyTerms

Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Area under the ROC curve and its standard error (Hanley and McNeil 1982). ``trials``: members plus strangers."""

    auc: float
    standard_error: float
    trials: int


def bound(z: float) -> float:
    """Return the largest possible AUC against one full-batch step with noise ``z``: Phi(1 / (z sqrt 2))."""
    return 0.5 * (1.0 + math.erf(1.0 / (2.0 * z)))


def attack_plain(vectors: Vectors, strangers: Vectors) -> Attack:
    """Attack the plain sum of a cohort's vectors (n, d), which is all that secure aggregation shows.

    The attacker tells members from ``strangers`` (k, d). They know no other member, only what such vectors have in
    common: the mean of the strangers' vectors.
    """
    total, count = vectors.sum(0, dtype=np.float64), len(vectors)
    common = strangers.mean(0, dtype=np.float64)

    def score(vector: Vectors, common: NDArray[np.float64]) -> float:
        own = vector - common
        return float((total - count * common) @ own / (own @ own))

    # Leave each stranger out of the mean that they are compared with.
    without = [(common * len(strangers) - one) / (len(strangers) - 1) for one in strangers]
    return judge(
        [score(one, common) for one in vectors],
        [score(one, mean) for one, mean in zip(strangers, without, strict=True)],
    )


def attack_knowing_others(
    vectors: Vectors, terms: PrivacyTerms, trials: int, send: Release = deployed_release
) -> Attack:
    """Attack full-batch steps over patients with clipped vectors (n, d), divided among sites that each call ``send``.

    The attacker knows every patient but the candidate. The candidate is in the cohort in half of the ``trials``.
    """
    scores: dict[bool, list[float]] = {True: [], False: []}
    sites = np.arange(len(vectors)) % terms.sites
    for trial in range(trials):
        candidate, inside = trial // 2 % len(vectors), trial % 2 == 0
        present = np.ones(len(vectors), dtype=bool)
        present[candidate] = inside
        total = None
        for site in range(terms.sites):
            released = send(vectors[present & (sites == site)], terms)
            if total is None:
                total = released
            else:
                add_to(total, released)
        assert total is not None
        others = vectors.sum(0, dtype=np.float64) - vectors[candidate]
        target = vectors[candidate].astype(np.float64)
        scores[inside].append(float((terms.encoding().decode(total) - others) @ target))
    return judge(scores[True], scores[False])


def plain_release(vectors: Vectors, terms: PrivacyTerms) -> Ring:
    """Return what a site sends without noise: the sum of its patients' vectors (k, d)."""
    total = clipped_sum(len(vectors), vectors.shape[1], lambda i: vectors[i], terms, NoiseStream())
    return terms.encoding().release(total, np.zeros_like(total))


def judge(members: Sequence[float], strangers: Sequence[float]) -> Attack:
    """Return the AUC of the scores: the chance that a member scores above a stranger."""
    a, b = np.asarray(members), np.asarray(strangers)
    auc = float(((a[:, None] > b).mean() + (a[:, None] >= b).mean()) / 2)
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (a.size - 1) * (q1 - auc**2) + (b.size - 1) * (q2 - auc**2)
    return Attack(auc=auc, standard_error=math.sqrt(max(variance, 0.0) / (a.size * b.size)), trials=a.size + b.size)

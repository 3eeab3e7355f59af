"""Empirical epsilon from one run with many canaries (Steinke, Nasr and Jagielski 2023, arXiv:2305.08846).

Each canary is a patient whose clipped vector has one coordinate of their own. A fair coin decides whether they are in
the cohort. The auditor sees the releases and guesses. Too many right guesses contradict the claimed epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.dp.encoding import Ring, add_to
from privacy.dp.noise import NoiseStream
from privacy.dp.release import clipped_sum, release
from privacy.dp.terms import PrivacyTerms

# One site's release of the canaries (vectors (k, d)) in its cohort.
Release = Callable[[NDArray[np.float32], PrivacyTerms], Ring]
_CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class OneRunAudit:
    """``lower``: with 95% confidence epsilon is at least this; ``right`` of ``guesses`` guesses were right."""

    lower: float
    right: int
    guesses: int


def deployed_release(vectors: NDArray[np.float32], terms: PrivacyTerms) -> Ring:
    """Return what a site sends for a cohort with these clipped vectors (k, d)."""
    stream = NoiseStream()
    total = clipped_sum(len(vectors), vectors.shape[1], lambda i: vectors[i], terms, stream)
    return release(total, terms, stream)


def one_run_audit(
    terms: PrivacyTerms, canaries: int, steps: int, generator: np.random.Generator, send: Release = deployed_release
) -> OneRunAudit:
    """Audit ``steps`` steps of all ``terms.sites`` sites with ``canaries`` canaries; ``send`` may be a broken release.

    ``generator`` throws only the audit's coins. The audit tries five numbers of guesses and returns the best one, with
    the confidence corrected for five tries.
    """
    member = generator.random(canaries) < 0.5
    vectors = np.eye(canaries, dtype=np.float32) * np.float32(terms.clip)
    of_site = [np.flatnonzero(member & (np.arange(canaries) % terms.sites == s)) for s in range(terms.sites)]
    seen = np.zeros(canaries)
    for _ in range(steps):
        total: Ring | None = None
        for cohort in of_site:
            released = send(vectors[cohort], terms)
            if total is None:
                total = released
            else:
                add_to(total, released)
        assert total is not None
        seen += terms.encoding().decode(total)
    order = np.argsort(seen)
    tries = [n for n in (canaries // 20, canaries // 8, canaries // 4, canaries // 2, canaries) if n >= 2]
    found = []
    for guesses in tries:
        out, into = order[: guesses // 2], order[-(guesses - guesses // 2) :]
        right = int((~member[out]).sum() + member[into].sum())
        chance = (1.0 - _CONFIDENCE) / len(tries)
        found.append(
            OneRunAudit(lower=_lower(canaries, guesses, right, terms.delta, chance), right=right, guesses=guesses)
        )
    return max(found, key=lambda audit: audit.lower)


def _lower(canaries: int, guesses: int, right: int, delta: float, chance: float) -> float:
    low, high = 0.0, 1.0
    while _p_value(canaries, guesses, right, high, delta) < chance and high < 60.0:
        high += 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if _p_value(canaries, guesses, right, middle, delta) < chance else (low, middle)
    return low


def _p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Return the chance of ``right`` or more right guesses under (epsilon, delta): theorem 5.2, algorithm 2."""
    from scipy.stats import binom

    q = 1.0 / (1.0 + math.exp(-epsilon))
    beta = float(binom.sf(right - 1, guesses, q))
    below = np.cumsum(binom.pmf(right - np.arange(1, right + 1), guesses, q))
    alpha = float((below / np.arange(1, right + 1)).max(initial=0.0))
    return min(1.0, beta + alpha * delta * 2 * canaries)

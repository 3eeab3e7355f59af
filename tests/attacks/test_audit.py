"""The audits pass on the deployed path and catch broken ones; the attacks succeed on plain sums and fail on ours."""

from dataclasses import replace

import numpy as np
import pytest

from privacy.audit.membership import attack_knowing_others, attack_plain, bound, plain_release
from privacy.audit.noise_energy import noise_energy, null_round
from privacy.audit.one_run import deployed_release, one_run_audit
from privacy.dp.accountant import epsilon
from privacy.dp.encoding import Ring
from privacy.dp.terms import PrivacyTerms

TERMS = PrivacyTerms(
    mode="shared", z=3.0, q=1.0, steps=4, clip=0.5, delta=1e-5, cohort=1000, sites=5, survivors=5, colluders=1
)  # fmt: skip


def test_the_sum_of_ten_sites_holds_its_noise_and_one_silent_site_is_seen() -> None:
    terms = replace(TERMS, sites=10, survivors=10)
    whole = noise_energy(null_round(terms, 10, 100_000), terms, 10)
    assert abs(whole.score) < 5
    assert not whole.missing
    lacking = noise_energy(null_round(terms, 10, 100_000, silent=1), terms, 10)
    assert lacking.missing
    assert lacking.ratio == pytest.approx(0.9, abs=0.02)
    assert lacking.score == pytest.approx(-0.1 * np.sqrt(50_000), rel=0.3)


def _quiet(vectors: np.ndarray, terms: PrivacyTerms) -> Ring:
    """An eighth of the noise, which is fresh each time. A quarter does not always show: once 147 of 150 were right."""
    return deployed_release(vectors, replace(terms, z=terms.z / 8))


def _unclipped(vectors: np.ndarray, terms: PrivacyTerms) -> Ring:
    """Ten clipping norms a patient: what a site without clipping could send."""
    repeated = np.repeat(vectors, 10, axis=0)
    return deployed_release(repeated, terms)


def test_one_run_shows_less_than_is_claimed_and_more_where_something_is_broken() -> None:
    claimed = epsilon({(3.0, 1.0): 4}, 1e-5)
    honest = one_run_audit(TERMS, 600, 4, np.random.default_rng(1))
    assert 0.0 < honest.lower < claimed
    for broken in (_quiet, _unclipped, plain_release):
        found = one_run_audit(replace(TERMS, bits=32), 600, 4, np.random.default_rng(1), broken)
        assert found.lower > claimed, broken.__name__


def _gradients(count: int, size: int, seed: int) -> np.ndarray:
    """Patients' clipped gradients: something in common, something of their own."""
    rng = np.random.default_rng(seed)
    own, common = rng.standard_normal((count, size)), np.random.default_rng(99).standard_normal(size)
    vectors = own + 0.5 * common
    return (0.5 * vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_membership_is_plain_in_a_plain_sum_of_64() -> None:
    assert attack_plain(_gradients(64, 5000, 0), _gradients(64, 5000, 1)).auc > 0.9


def test_membership_hides_in_shared_mode_even_from_who_knows_all_others() -> None:
    terms = replace(TERMS, z=4.25, cohort=12, sites=3, survivors=3)
    found = attack_knowing_others(_gradients(12, 400, 0), terms, 700)
    assert bound(4.25) == pytest.approx(0.566, abs=0.001)
    assert found.auc <= bound(4.25) + 3 * found.standard_error
    # And the attack works: without noise it tells, and with little.
    assert attack_knowing_others(_gradients(12, 400, 0), terms, 100, plain_release).auc == 1.0
    assert attack_knowing_others(_gradients(12, 400, 0), replace(terms, z=0.3), 200).auc > 0.9

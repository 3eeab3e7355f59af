"""Non-inferiority: as good is taken, worse is refused for a reason, and few patients prove nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from client.adapters.acceptance import Margins, good_enough, non_inferior
from shared_model.core.errors import InputError
from shared_model.scoring.dosimetry import CaseScore

MARGINS = Margins()


def scores(patients: int, seed: int = 0, worse_gy: float = 0.0, organ_gy: float = 0.0) -> list[CaseScore]:
    random = np.random.RandomState(seed)
    found = []
    for _ in range(patients):
        dose, organ = 3.0 + 0.1 * random.randn(), 2.0 + 0.2 * random.randn()
        found.append(
            CaseScore(
                dose_score_gy=dose + worse_gy,
                dvh_errors={"PTV_7000/D95": 1.0, "SpinalCord/D0.1cc": organ + organ_gy},
                mae_ref5_gy=4.0,
                mae_gdp_gy=4.0,
            )
        )
    return found


def test_the_same_adapter_is_accepted() -> None:
    verdict = non_inferior(scores(8), scores(8), MARGINS)
    assert verdict.accepted
    assert verdict.reason == "not inferior"
    assert verdict.record()["accepted"]


def test_a_worse_dose_is_refused() -> None:
    verdict = non_inferior(scores(8, worse_gy=0.5), scores(8), MARGINS)
    assert not verdict.accepted
    assert verdict.reason.startswith("dose score: worse by up to 0.50 Gy, allowed 0.3 Gy")


def test_one_organ_is_enough_to_refuse() -> None:
    worse = scores(8, organ_gy=2.0)
    verdict = non_inferior(worse, scores(8), replace(MARGINS, dvh_score_gy=5.0))
    assert [check.name for check in verdict.checks if not check.passed] == ["SpinalCord/D0.1cc"]


def test_the_bound_is_students() -> None:
    new, current = scores(6, seed=1), scores(6, seed=2)
    differences = [n.dose_score_gy - c.dose_score_gy for n, c in zip(new, current, strict=True)]
    expected = stats.ttest_1samp(differences, 0.0).confidence_interval(0.9).high  # two-sided 90 %: upper 95 %
    assert non_inferior(new, current, MARGINS).checks[0].bound == pytest.approx(expected)


def test_an_uncertain_comparison_is_no_proof() -> None:
    new, current = scores(3, seed=1), scores(3, seed=2)
    wild = [replace(s, dose_score_gy=s.dose_score_gy + d) for s, d in zip(new, (2.0, -2.0, 0.0), strict=True)]
    assert not non_inferior(wild, current, MARGINS).accepted


def test_few_patients_are_refused() -> None:
    with pytest.raises(InputError, match="2 held-back patients"):
        non_inferior(scores(2), scores(2), MARGINS)


def test_a_first_adapter_is_held_against_limits() -> None:
    assert good_enough(scores(5), MARGINS).accepted
    assert not good_enough(scores(5, worse_gy=6.0), MARGINS).accepted

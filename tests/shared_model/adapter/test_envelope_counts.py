"""A patient's counts have a known norm, and noised counts of many give the ranges of the many."""

import numpy as np
import pytest

from shared_model.adapter.count_layout import BINS, EDGES, LAYOUT, NORM, SIZE
from shared_model.adapter.envelope import MEASURES, Envelope, organs_of
from shared_model.adapter.envelope_counts import case_counts, noised_envelope
from shared_model.patient.anatomy import ORGANS
from tests.builders.small_case import small_case

STREAM = np.random.default_rng(3)


def test_no_patient_counts_more_than_the_norm_that_noise_is_made_for():
    """The oracle counts by hand: one for each measure, one for how many organs, and a little for each organ."""
    case = small_case()
    everything = small_case(structures={**case.structures, **dict.fromkeys(ORGANS, case.structures["Brainstem"])})
    for patient, organs in ((case, 3), (everything, len(ORGANS))):
        counts = case_counts(patient)
        assert counts is not None
        assert counts.shape == (SIZE,)
        squared = float(np.square(counts, dtype=np.float64).sum())
        assert squared == pytest.approx(len(MEASURES) + 1 + organs * 2 / len(ORGANS), abs=1e-5)
        assert squared <= NORM**2 + 1e-5
    assert case_counts(small_case(structures={}, prescriptions_gy={})) is None


def test_every_measure_has_bins():
    assert list(EDGES) == list(MEASURES)
    assert organs_of(small_case()) == ["Brainstem", "SpinalCord", "Parotid_L"]


def test_counts_without_noise_enclose_what_the_patients_measure():
    cases = [small_case(structures=dict(list(small_case().structures.items())[:keep])) for keep in (3, 4, 5)]
    exact = Envelope.measure(cases)
    counts = np.sum([case_counts(case) for case in cases], axis=0).astype(float)
    found = noised_envelope(counts, 0.0, len(cases))
    assert found.organs == exact.organs
    assert found.least_organs == exact.least_organs == 1
    for key, (low, high) in exact.ranges.items():
        width = (EDGES[key][1] / EDGES[key][0]) ** (1 / BINS)
        assert low / width * 0.999 <= found.ranges[key][0] <= low * 1.001, key
        assert high * 0.999 <= found.ranges[key][1] <= high * width * 1.001, key
    assert all(found.judge(case).refusals == () for case in cases)


@pytest.mark.parametrize(("patients", "noise_sd", "lost"), [(200, 6.0, 0.1), (1000, 6.0, 0.015)])
def test_noise_costs_few_patients_at_either_end(patients, noise_sd, lost):
    """Target volumes are lognormal: the range that is read from noised counts holds nearly all of the patients."""
    volumes = np.exp(STREAM.normal(np.log(400.0), 0.6, patients))
    edges = np.geomspace(*EDGES["targets_cc"], BINS + 1)
    counts = np.zeros(SIZE)
    block = list(MEASURES).index("targets_cc") * BINS
    counts[block : block + BINS] = np.histogram(volumes, edges)[0]
    outside = []
    for _ in range(20):
        found = noised_envelope(counts + STREAM.normal(0.0, noise_sd, SIZE), noise_sd, patients)
        low, high = found.ranges["targets_cc"]
        outside.append(np.mean((volumes < low) | (volumes > high)))
    assert np.mean(outside) < lost


def test_noise_alone_gives_no_range_and_no_organ():
    wrong = 0
    for _ in range(50):
        found = noised_envelope(STREAM.normal(0.0, 20.0, SIZE), 20.0, 30)
        wrong += len(found.ranges) + len(found.organs)
    # Of 50 times 45 chances a few may come.
    assert wrong < 25


def test_the_layout_says_what_is_counted():
    assert LAYOUT == "2e2d4db9ab9c8c971672729f24e466cef2bc686870f08e16ecfbf0f38fa703af", (
        "a new layout needs sites of the new version"
    )

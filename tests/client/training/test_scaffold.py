"""SCAFFOLD with one vector in and one update out, against the paper's form in which the controls travel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client.site.config import SiteConfig
from client.training.between_rounds import Memory
from client.training.scaffold import SiteControl
from client.training.train import train_round
from privacy.dp.terms import PrivacyTerms
from privacy.wire.tasks import TrainTask
from shared_model.adapter.manifest import initial_vector
from shared_model.core.errors import InputError
from shared_model.core.fields import MessageError
from shared_model.network.spec import ModelSpec
from simulations.phantom.hospitals import STYLES, write_hospital
from tests.builders.train_task import train_task

SPEC = ModelSpec(prior="none", shape=(16, 16, 16))
RATES = (0.1, 0.05, 0.1)  # of the steps of a round, as with a warm-up
WEIGHTS = np.array([0.5, 0.3, 0.2])
RANDOM = np.random.default_rng(0)
CURVES = RANDOM.uniform(0.2, 3.0, (3, 6))  # loss of site i: half of sum(curve * (x - centre)^2)
CENTRES = RANDOM.normal(0, 2, (3, 6))
BEST = (WEIGHTS[:, None] * CURVES * CENTRES).sum(0) / (WEIGHTS[:, None] * CURVES).sum(0)


def papers(rounds: int, corrected: bool = True) -> list[np.ndarray]:
    """Algorithm 1, option II, in float64: the server holds c, and everybody takes part in every round."""
    x, c, own = np.zeros(6), np.zeros(6), np.zeros((3, 6))
    found = []
    for _ in range(rounds):
        updates, changes = np.zeros((3, 6)), np.zeros((3, 6))
        for i in range(3):
            y = x.copy()
            for rate in RATES:
                y = y - rate * (CURVES[i] * (y - CENTRES[i]) + corrected * (c - own[i]))
            new = own[i] - c + (x - y) / sum(RATES)
            updates[i], changes[i], own[i] = y - x, new - own[i], new
        x, c = x + WEIGHTS @ updates, c + WEIGHTS @ changes
        found.append(x)
    return found


def ours(rounds: int) -> list[np.ndarray]:
    """Each site keeps its own arrays and sees x alone."""
    x, kept = np.zeros(6, np.float32), [{}, {}, {}]
    found = []
    for number in range(1, rounds + 1):
        updates = []
        for i in range(3):
            control, y = SiteControl.at(x, number, number - 1, kept[i]), x.copy()
            for rate in RATES:
                y = (y - rate * (CURVES[i] * (y - CENTRES[i])) + rate * control.correction).astype(np.float32)
            kept[i] = control.after(x, y - x, sum(RATES))
            updates.append(y - x)
        x = (x + WEIGHTS @ np.array(updates)).astype(np.float32)
        found.append(x)
    return found


def test_sites_that_see_one_vector_go_the_way_of_the_paper() -> None:
    for mine, theirs in zip(ours(40), papers(40), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5)


def test_it_ends_at_the_optimum_where_plain_averaging_does_not() -> None:
    drifted = np.abs(papers(200, corrected=False)[-1] - BEST).max()
    assert np.abs(ours(200)[-1] - BEST).max() < 1e-3 < 0.02 < drifted


def test_after_missed_rounds_the_common_control_is_the_mean_over_them() -> None:
    seen = np.array([1.0, 2.0], np.float32)
    kept = {"own": np.zeros(2, np.float32), "seen": seen, "rates": np.array([0.5], np.float32)}
    moves = [np.array([0.5, 0.0]), np.array([0.1, 0.2]), np.array([0.0, -0.1])]
    now = (seen + sum(moves)).astype(np.float32)
    expected = np.mean([-move / 0.5 for move in moves], axis=0)
    np.testing.assert_allclose(SiteControl.at(now, 7, 4, kept).common, expected, atol=1e-6)


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    torch.set_num_threads(1)
    made = write_hospital(tmp_path / "a", STYLES["balanced_7f"], 4, 1, shape=(16, 16, 16))
    return replace(made, cache=tmp_path / "cache")


def controlled(**changes: object) -> TrainTask:
    return train_task(control="scaffold", rounds=4, **changes)


def test_a_real_site_corrects_from_its_second_round_and_repeats_a_round_to_the_bit(site: SiteConfig) -> None:
    start = initial_vector(SPEC)
    first = train_round(site, SPEC, start, controlled())[0]
    assert first.tobytes() == train_round(site, SPEC, start, train_task(rounds=4))[0].tobytes()
    # The other sites went the other way, so this one is held back by the whole difference.
    then = (start - first).astype(np.float32)
    second = train_round(site, SPEC, then, controlled(round=2))[0]
    plain = train_round(site, SPEC, then, train_task(round=2, rounds=4))[0]
    assert float(np.dot(second - plain, first)) < 0.0
    assert second.tobytes() == train_round(site, SPEC, then, controlled(round=2))[0].tobytes(), "asked for again"
    again = train_round(site, SPEC, start, controlled())[0]
    assert again.tobytes() == first.tobytes(), "a run that starts over"


def test_without_a_folder_it_says_what_is_missing(site: SiteConfig) -> None:
    with pytest.raises(InputError, match="give a folder as 'cache'"):
        train_round(replace(site, cache=None), SPEC, initial_vector(SPEC), controlled())


def test_a_damaged_memory_is_named(site: SiteConfig) -> None:
    memory = Memory.of(site, SPEC, 0, "control")
    memory.keep(1, {"own": np.zeros(2, np.float32)})
    memory.path.write_bytes(b"PK damaged")
    with pytest.raises(InputError, match="damaged; delete it"):
        memory.before(2)


def test_noise_and_a_control_do_not_go_together() -> None:
    terms = PrivacyTerms(
        mode="site", z=1.0, q=1.0, steps=4, clip=1.0, delta=1e-5, cohort=12, sites=3, survivors=3, colluders=1
    )
    noised = train_task(rounds=4, privacy=terms.to_json())
    for kept in ({"control": "scaffold"}, {"personal": "table_out"}):
        with pytest.raises(MessageError, match="does not go with noise"):
            replace(noised, **kept)

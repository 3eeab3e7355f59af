"""Black-box audit: real hospital folders with and without one patient, through app, secure sums and ledger.

The auditor has what the coordinator has: the sums on its disk. It knows the victim's clipped gradient and asks, over
several releases, whether the victim took part. What it proves must stay below the epsilon that the ledger counts.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import client.training.private_train as production
from client.app import client_app
from client.gate.secure_site import SITES
from client.site.config import SiteConfig
from client.training.installed import InstalledTraining
from client.training.patient_gradients import patients_of
from privacy.audit.threshold import epsilon_at_least
from privacy.dp.accountant import adaptive_epsilon, profile
from privacy.secagg.context import Cohort
from privacy.wire.messages import TrainTask
from server.config.privacy import mask_terms, run_terms
from server.config.run import RunConfig
from server.rounds.kept_sums import read_sum
from server.rounds.loop import run_federation
from server.rounds.masked_sum import SumForm
from server.sites.attendance import Members
from shared_model.adapter.manifest import initial_vector, manifest_hash
from shared_model.network.spec import ModelSpec
from simulations.engine.run import run_local
from simulations.phantom.hospitals import STYLES, write_hospital
from tests.builders.hospital_homes import Homes
from tests.builders.run_config import aggregate_config, plain_run, privacy_config, rounds_config, train_config

SPEC = ModelSpec(prior="none", shape=(16, 16, 16), adapter="base", base="phantom")
# The alarm needs its trials: with fewer, chance hides even a patient without noise. The honest run is the same work.
ALARM_TRIALS, HONEST_TRIALS, RELEASES = 24, 10, 3
Z, Q, DELTA, LR, ADAM_EPSILON = 6.0, 0.5, 1e-5, 1e-4, 1e-8
# With one expected patient a site, the gradient's noise Z x CLIP is a tenth of AdamW's epsilon: its step is linear.
CLIP = 0.1 * ADAM_EPSILON / Z


def configured(trials: int) -> RunConfig:
    """A run of so many trials, one after another."""
    return plain_run(
        model={"prior": "none", "shape": [16, 16, 16], "adapter": "base", "base": "phantom"},
        rounds=rounds_config(
            count=trials * RELEASES, min_sites=3, attempts=1, evaluate_every=0, deadline_s=60.0, wait_for_sites_s=20.0,
            max_update_norm=0.01,
        ),
        train=train_config(
            local_steps=1, batch_size=1, base_rounds=trials * RELEASES, base_lr=LR, lr=LR, lr_final_fraction=1.0,
            weight_decay=0.0,
        ),
        aggregate=aggregate_config(name="fedavg", lr=1e-6, weighting="equal"),
        # The auditor looks at numbers alone, so the draw counts: answers are held, if for a moment only.
        privacy=privacy_config(mode="local", z=Z, q=Q, clip=CLIP, delta=DELTA, cohort=6, sites=3, hold_s=0.01),
    )  # fmt: skip


@dataclass
class World:
    """Three hospitals with one training patient each, of whom b's and c's cannot be read: nothing hides the victim."""

    homes: Homes
    victim: Path
    config: RunConfig

    @classmethod
    def made(cls, folder: Path, config: RunConfig) -> "World":
        homes = Homes(folder)
        victim = folder
        for name, home in homes.homes.items():
            site = write_hospital(home.folder / "cases", STYLES["balanced_7f"], 2, 1, shape=(16, 16, 16))
            replace(site, site=name).save(home.site_config)
            homes.change_policy(name, "modes: [shared]", "modes: [local]")
            path = next(site.root.rglob(f"{site.train[0]}.npz"))
            if name == "a":
                victim = path
            else:
                path.write_bytes(path.read_bytes()[:100])
        return cls(homes, victim, config)

    def statistics(self, out: Path, direction: np.ndarray) -> list[float]:
        """Run the federation; for each trial, the victim's share in the sums, in units of one clipped gradient."""
        members = Members(cohort=Cohort.of(self.homes.consortium.roster))
        start = initial_vector(SPEC)
        run_local(
            client_app(InstalledTraining()),
            lambda grid, _: run_federation(
                grid, self.config, SPEC.to_json(), manifest_hash(SPEC), start, out, members=members
            ),
            self.homes.nodes(),
            {},
        )
        SITES.close()
        form, mask = SumForm.of(self.config), np.ones(start.size, bool)
        assert form is not None
        one = LR * CLIP / ADAM_EPSILON / 3  # expected patients a site: Q x cohort / sites = 1
        found = []
        for number in range(1, self.config.rounds.count + 1):
            kept = read_sum(out, number)
            assert kept is not None
            assert kept.total is not None
            found.append(float(-form.read(mask, kept.total).mean() @ direction) / one)
        return [sum(found[i : i + RELEASES]) for i in range(0, len(found), RELEASES)]

    def charged(self) -> float:
        """Epsilon that hospital a's ledger counts for one trial."""
        from client.gate.limits import Limits

        ledger = Limits.of_home(self.homes.homes["a"]).ledger
        assert ledger is not None
        entries = ledger.entries()
        assert len(entries) == self.config.rounds.count
        return adaptive_epsilon(profile([entry.charge for entry in entries[:RELEASES]]), DELTA)


def direction_of(site: SiteConfig, config: RunConfig) -> np.ndarray:
    """The victim's clipped gradient, of norm 1: the auditor knows the patient, not whether they took part."""
    terms, exact = run_terms(config), mask_terms(config)
    assert terms is not None
    assert exact is not None
    task = TrainTask(
        round=1, rounds=1, local_steps=1, batch_size=1, lr=LR, weight_decay=0.0, seed=config.seed, stage="base",
        privacy=terms.to_json(), masks=exact.to_json(),
    )  # fmt: skip
    found = patients_of(site, SPEC, initial_vector(SPEC), task, terms).gradient(0).numpy().astype(np.float64)
    return found / np.linalg.norm(found)


def audited(folder: Path, trials: int) -> tuple[float, float]:
    """Return what the audit proves of epsilon, and what the ledger counts."""
    config = configured(trials)
    world = World.made(folder, config)
    direction = direction_of(world.homes.site("a"), config)
    present = world.statistics(folder / "with", direction)
    charged = world.charged()
    other = World.made(folder / "other", config)
    other.victim.write_bytes(other.victim.read_bytes()[:100])  # zero-out: the case cannot be read any more
    absent = other.statistics(folder / "without", direction)
    return epsilon_at_least(present, absent, 0.5, DELTA), charged


@pytest.mark.timeout(900)
def test_what_the_transcript_proves_is_below_what_the_ledger_counts(tmp_path: Path) -> None:
    proven, charged = audited(tmp_path, HONEST_TRIALS)
    assert 0.3 < charged < 1.0
    assert proven < charged


@pytest.mark.timeout(900)
def test_the_audit_alarms_when_the_noise_is_a_hundredth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this the test above could not fail."""
    whole = production.integer_gaussian
    monkeypatch.setattr(production, "integer_gaussian", lambda sigma, size, stream: whole(sigma, size, stream) // 100)
    proven, charged = audited(tmp_path, ALARM_TRIALS)
    assert proven > charged


def test_the_bounds_of_the_threshold_test() -> None:
    """Clopper and Pearson's: none of n is at most 1 - chance^(1/n); a coin shows nothing."""
    chance = 0.05 / 4
    all_of_them = epsilon_at_least([1.0] * 40, [0.0] * 40, 0.5, 0.0)
    assert all_of_them == pytest.approx(np.log(chance ** (1 / 40) / (1 - chance ** (1 / 40))))
    assert epsilon_at_least([0.0] * 40, [1.0] * 40, 0.5, 0.0) == 0.0
    coin = [0.0, 1.0] * 500
    assert epsilon_at_least(coin, coin, 0.5, 0.0) == 0.0
    assert epsilon_at_least([1.0] * 40, [0.0] * 40, 0.5, 0.5) < all_of_them

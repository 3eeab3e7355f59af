"""`server verify` of a run with statistics: the published ranges follow from the logged sum; each forgery is named."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.app import InstalledTraining, client_app
from client.data.case_files import save_case
from client.gate.secure_site import SITES
from client.site.config import SiteConfig
from privacy.secagg.context import Cohort
from server.app import federate, run_config
from server.deployment.home import ServerHome, create
from server.record.patient_counts import PatientCounts
from server.record.public_log import PublicLog, RunLog, file_hash, number_hash, plain_hash
from server.record.signed_sums import record_files
from server.rounds.kept_sums import BEFORE, keep_sum, read_sum
from server.runs.index import remember
from server.runs.publish import publish
from server.runs.verify import audit
from server.sites.attendance import Members
from simulations.engine.run import run_local
from tests.builders.hospital_homes import Homes
from tests.builders.run_config import plain_run, privacy_config, rounds_config
from tests.builders.small_case import small_case

PATIENTS = 8
CONFIG = plain_run(
    name="counted",
    model={"prior": "none"},
    rounds=rounds_config(count=1, min_sites=3, evaluate_every=0, attempts=1, deadline_s=60.0),
    privacy=privacy_config(mode="masked", cohort=3 * PATIENTS, sites=3, statistics=99.0),
)


class Still(InstalledTraining):
    """The installed model, which learns nothing: what is counted before the first round is tested here."""

    def train_round(self, site, spec_json, vector, task):
        return np.zeros_like(vector), {"loss": 1.0}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coordinator's folder with a finished and published run, whose three hospitals counted their patients."""
    folder = tmp_path_factory.mktemp("statistics")
    homes = Homes(folder / "hospitals")
    for name, hospital in homes.homes.items():
        homes.change_policy(name, "modes: [shared]", "modes: [masked]")
        train = tuple(f"{name}{number}" for number in range(PATIENTS))
        site = SiteConfig(site=name, data="cases", root=hospital.folder, train=train, validation=("v",))
        site.save(hospital.site_config)
        for case_id in train:
            save_case(hospital.folder / f"{case_id}.npz", small_case(case_id))
    home = create("walk", folder / "home", "127.0.0.1", 9092, 9093, [])
    out = home.folder / "runs" / "counted"
    # Hospitals of the test's own consortium refuse heads of this coordinator: it hands out none without a key.
    unsigned = PublicLog(home.public_log().path.parent, homes.consortium.id, key=folder / "none.key")
    log = RunLog(log=unsigned, plan="", roster=file_hash(home.roster_file.read_bytes()))
    members = Members(cohort=Cohort.of(homes.consortium.roster), log=log)
    app = client_app(Still())
    run_local(app, lambda g, c: federate(g, c, None, members), homes.nodes(), run_config(CONFIG, out))
    SITES.close()
    remember(home, "1", CONFIG, out)
    publish(home, folder / "published", None)
    return home.folder


@pytest.fixture
def home(finished: Path, tmp_path: Path) -> ServerHome:
    shutil.copytree(finished, tmp_path / "home")
    return ServerHome.load(tmp_path / "home")


def out(home: ServerHome) -> Path:
    return home.folder / "runs" / "counted"


def wrong(home: ServerHome) -> tuple[str, ...]:
    return audit(home, "counted").wrong


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def relog(home: ServerHome, of: str, **changes: object) -> None:
    """Write the log again with another entry ``of`` an act, as a coordinator could before anybody has a head of it."""
    path = home.public_log().path
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert of in [line["act"] for line in lines]
    new = [{**line, **changes} if line["act"] == of else line for line in lines]
    path.write_bytes(b"".join(json.dumps(e, sort_keys=True, separators=(",", ":")).encode() + b"\n" for e in new))


def test_the_log_holds_what_the_published_ranges_follow_from(home: ServerHome) -> None:
    counted, round_1, published = home.public_log().entries()
    card = json.loads((out(home) / "adapter.json").read_text())
    kept = read_sum(out(home), BEFORE)
    assert kept is not None
    assert (counted["act"], counted["attempt"], counted["sites"]) == ("statistics", 1, ["a", "b", "c"])
    for key in ("run", "plan", "roster"):
        assert counted[key] == round_1[key]
    assert counted["trained_on"] == published["trained_on"] == plain_hash(card["trained_on"])
    assert len(record_files(out(home), BEFORE)) == 1, "what the sites signed for it, as for each round"
    found = audit(home, "counted")
    assert found.wrong == ()
    assert "statistics: computed again from the sum of 3 sites, they give the card's ranges" in found.right


def test_another_sum_is_named(home: ServerHome) -> None:
    kept = read_sum(out(home), BEFORE)
    assert kept is not None
    kept.ring[0] += 1
    keep_sum(out(home), BEFORE, kept)
    assert wrong(home) == ("statistics: the saved sum is not the one in the log",)
    keep_sum(out(home), BEFORE, replace(kept, run_id="0" * 32))
    assert wrong(home) == ("statistics: their sum is not here, so they cannot be computed again",)


def test_a_sum_over_other_sites_is_named(home: ServerHome) -> None:
    kept = read_sum(out(home), BEFORE)
    assert kept is not None
    keep_sum(out(home), BEFORE, replace(kept, sites=("a", "b")))
    assert "statistics: the saved sum is over other sites than the log names" in wrong(home)


def test_a_range_that_the_sum_does_not_give_is_named_with_both_values(home: ServerHome) -> None:
    def widen(card: dict[str, Any]) -> None:
        card["trained_on"]["ranges"]["prescription_gy"][0] = 1.5
        card["trained_on"]["organs"].remove("Parotid_L")

    edit(out(home) / "adapter.json", widen)
    organs, prescription = wrong(home)
    assert organs == (
        "statistics: organs: the card has Brainstem, SpinalCord, the sum gives Brainstem, Parotid_L, SpinalCord"
    )
    assert prescription.startswith("statistics: prescription_gy: the card has 1.5, ")
    edit(out(home) / "adapter.json", lambda card: card.pop("trained_on"))
    assert "statistics: patients: the card has nothing, the sum gives 24" in wrong(home)


@pytest.mark.parametrize(
    ("act", "changes", "told"),
    [
        ("statistics", {"sum": "0" * 64}, "the saved sum is not the one in the log"),
        ("statistics", {"sites": ["a", "b"]}, "over other sites than the log names"),
        ("statistics", {"trained_on": "0" * 64}, "the sum does not give the ranges that the log names"),
        ("statistics", {"attempt": 2}, "asked 2 times by the log, 1 times by the report"),
        ("statistics", {"act": "counted"}, "they are not in the log"),
        ("publish", {"trained_on": "0" * 64}, "the sum does not give the ranges that were published on"),
    ],
)
def test_a_changed_entry_is_named_by_the_run_and_by_the_heads(
    home: ServerHome, act: str, changes: dict[str, object], told: str
) -> None:
    home.public_log().head()
    relog(home, act, **changes)
    heads, statistics = wrong(home)
    assert "the log does not continue its head of 3 entries" in heads
    assert told in statistics


def test_the_roster_of_the_runs_start_is_not_taken_for_the_newest(home: ServerHome) -> None:
    relog(home, "statistics", roster="0" * 64)
    assert wrong(home) == ()


def test_counts_and_cohort_that_do_not_belong_to_the_sum_are_named(home: ServerHome) -> None:
    counts = PatientCounts.read(out(home))
    assert counts is not None
    replace(counts, noise_sd=0.5).write(out(home))
    assert wrong(home) == ("statistics: the sum does not give the counts in patient_counts.json",)
    counts.write(out(home))
    config = replace(CONFIG, privacy=replace(CONFIG.privacy, cohort=25))
    edit(out(home) / "run.json", lambda run: run.update(config=config.to_json()))
    assert "statistics: the sum does not give the ranges that the log names" in wrong(home)


def test_a_sum_of_another_ring_is_no_sum_of_these_terms(home: ServerHome) -> None:
    kept = read_sum(out(home), BEFORE)
    assert kept is not None
    other = replace(kept, total=kept.ring.astype(np.uint64))
    keep_sum(out(home), BEFORE, other)
    relog(home, "statistics", sum=number_hash(other.ring))
    assert any(line.startswith("statistics: the saved sum cannot be read by this run's terms") for line in wrong(home))


def test_ranges_of_a_run_without_statistics_are_nobodys(home: ServerHome) -> None:
    without = replace(CONFIG, privacy=replace(CONFIG.privacy, statistics=0.0))
    edit(out(home) / "run.json", lambda run: run.update(config=without.to_json()))
    assert "statistics: the log has some, and the run's configuration asks for none" in wrong(home)
    relog(home, "statistics", act="counted")
    found = audit(home, "counted")
    assert not any("statistics" in line for line in found.wrong)
    assert "statistics: there were none; where the card's ranges come from, nothing here shows" in found.right


def test_statistics_that_failed_are_told(home: ServerHome) -> None:
    PatientCounts(run_id="0" * 32, asked=1, failed="too few sites").write(out(home))
    edit(out(home) / "adapter.json", lambda card: card.pop("trained_on"))
    relog(home, "statistics", act="counted")
    assert "statistics: there are none, and the card has no ranges (too few sites)" in audit(home, "counted").right

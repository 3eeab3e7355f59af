"""Noised counts of real hospitals' patients: one secure sum before the first round, paid for, refusable, in cards."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from client.app import client_app
from client.data.case_files import save_case
from client.gate.limits import Limits
from client.gate.secure_inputs import find_input, inputs_key
from client.gate.secure_site import INPUTS_FOLDER, SITES
from client.site.budget import budget_report
from client.site.config import SiteConfig
from privacy.dp.accountant import adaptive_epsilon, epsilon, profile
from privacy.dp.terms import PrivacyTerms
from privacy.secagg.audit import OpenedInput, SumRecord, judge
from privacy.secagg.context import Cohort
from privacy.trust.signed import private_key
from privacy.wire.tasks import StatisticsTask
from server.config.privacy import mask_terms, privacy_line, privacy_report, run_terms, statistics_terms
from server.config.run import RunConfig
from server.record.patient_counts import PatientCounts
from server.record.public_log import PublicLog, RunLog
from server.record.signed_sums import record_files
from server.rounds.kept_sums import BEFORE, read_sum
from server.rounds.patient_counts import count_patients, counts_cost
from server.rounds.steps import Link
from server.sites.attendance import ConnectedSite, Members
from shared_model.adapter.count_layout import LAYOUT, NORM, SIZE
from shared_model.adapter.envelope import Envelope
from shared_model.core.errors import InputError
from shared_model.core.fields import MessageError
from tests.builders.hospital_homes import CONFIG, Homes, Pulls
from tests.builders.run_config import privacy_config
from tests.builders.small_case import small_case

APP = client_app(Pulls())
PATIENTS = 24
COUNTED = replace(CONFIG, privacy=replace(CONFIG.privacy, cohort=3 * PATIENTS, epsilon=1e4, statistics=99.0))


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[Homes]:
    """Three hospitals with files of small patients; one file cannot be read."""
    found = Homes(tmp_path / "homes")
    for name, home in found.homes.items():
        train = tuple(f"{name}{number}" for number in range(PATIENTS))
        SiteConfig(site=name, data="cases", root=home.folder, train=train, validation=("v",)).save(home.site_config)
        for case_id in train:
            save_case(home.folder / f"{case_id}.npz", small_case(case_id))
    (found.homes["b"].folder / "b0.npz").write_bytes(b"broken")
    yield found
    SITES.close()


def plain(terms: PrivacyTerms | None) -> dict[str, object]:
    assert terms is not None
    return {key: value for key, value in terms.to_plain().items() if key != "mode"}


def purposes(homes: Homes) -> list[list[str]]:
    ledgers = [Limits.of_home(homes.homes[name]).ledger for name in "abc"]
    return [[entry.purpose for entry in ledger.entries()] for ledger in ledgers if ledger is not None]


def test_all_hospitals_counts_become_ranges_and_every_ledger_pays(homes: Homes, tmp_path: Path) -> None:
    plan = homes.pin(homes.plan(COUNTED, statistics=plain(statistics_terms(COUNTED)), answers=2))
    result = homes.run(tmp_path / "out", APP, COUNTED, plan)
    assert result.rounds == 1
    assert purposes(homes) == [["statistics", "shared"]] * 3
    found = PatientCounts.read(tmp_path / "out")
    assert found is not None
    assert (found.asked, found.sites, found.failed) == (1, ("a", "b", "c"), "")
    assert sum(found.counts[:24]) == pytest.approx(3 * PATIENTS - 1, abs=12)  # one file is broken, and nobody can tell
    card = {"trained_on": found.trained_on(3 * PATIENTS)}
    ranges = Envelope.from_card(card)
    assert ranges is not None
    assert ranges.patients == 3 * PATIENTS
    assert ranges.organs == ("Brainstem", "Parotid_L", "SpinalCord")
    low, high = ranges.ranges["prescription_gy"]
    assert 50.0 < low < 70.0 < high < 95.0
    assert ranges.judge(small_case()).refusals == ()


def test_a_hospital_can_open_what_it_put_into_the_counts_and_its_noise_is_in_it(homes: Homes, tmp_path: Path) -> None:
    plan = homes.pin(homes.plan(COUNTED, statistics=plain(statistics_terms(COUNTED)), answers=2))
    homes.run(tmp_path / "out", APP, COUNTED, plan)
    (file,) = record_files(tmp_path / "out", BEFORE)
    record = SumRecord.from_json(file.read_bytes())
    opened = []
    for name, home in homes.homes.items():
        key = inputs_key(private_key(home.identity_key.read_bytes()))
        kept = find_input(home.folder / "state" / INPUTS_FOLDER, key, record.cohort.index(name), record.context)
        assert kept is not None
        assert kept.noised
        opened.append(OpenedInput(site=record.cohort.index(name), opening=kept.opening, vector=kept.vector))
    judged, whole = judge(record, opened)
    assert whole is True
    assert not any(one.wrong for one in judged)


def test_masked_runs_count_too_and_the_ledger_alone_is_charged(homes: Homes, tmp_path: Path) -> None:
    for name in "abc":
        homes.change_policy(name, "modes: [shared]", "modes: [masked]")
    masked = replace(COUNTED, privacy=replace(COUNTED.privacy, mode="masked", statistics=8.0))
    exact = mask_terms(masked)
    assert exact is not None
    plan = homes.plan(
        CONFIG, mode="masked", privacy={}, masks=exact.to_plain(), statistics=plain(statistics_terms(masked)),
        metrics=("loss",), answers=2,
    )  # fmt: skip
    homes.run(tmp_path / "out", APP, masked, homes.pin(plan))
    assert purposes(homes) == [["statistics"]] * 3
    found = PatientCounts.read(tmp_path / "out")
    assert found is not None
    cost = counts_cost(found, masked, 0)
    assert cost["epsilon"] == cost["epsilon_with_rounds"] <= 8.0 < cost["epsilon_all_others_collude"]
    report = {**privacy_report(None, (), 1, exact), "statistics": cost}
    assert privacy_line(report).endswith(f"counts of the patients: epsilon {cost['epsilon']:.2f}, with the rounds"
                                         f" {cost['epsilon']:.2f}")  # fmt: skip


def failed(homes: Homes, out: Path, config: RunConfig, plan: bytes, words: str) -> None:
    """The run ends well without counts, and nobody has paid for any."""
    events: list[str] = []
    result = homes.run(out, APP, config, plan, lambda event: events.append(event.line()))
    assert result.rounds == 1
    found = PatientCounts.read(out)
    assert found is not None
    assert found.failed
    assert found.trained_on(9) is None
    assert any(words in line for line in events), events
    assert "statistics" not in purposes(homes)[1]


def test_a_hospital_whose_policy_does_not_name_them_is_counted_by_nobody(homes: Homes, tmp_path: Path) -> None:
    homes.change_policy("b", "evaluate, statistics]", "evaluate]")
    plan = homes.pin(homes.plan(COUNTED, statistics=plain(statistics_terms(COUNTED)), answers=2))
    failed(homes, tmp_path / "out", COUNTED, plan, "tasks: this site does not answer statistics")


def test_counts_that_the_pinned_plan_does_not_name_are_refused(homes: Homes, tmp_path: Path) -> None:
    plan = homes.pin(homes.plan(COUNTED, answers=2))
    failed(homes, tmp_path / "out", COUNTED, plan, "statistics are not those in this site's pinned plan")


def test_less_noise_than_the_pinned_plan_names_is_refused(homes: Homes, tmp_path: Path) -> None:
    more = replace(COUNTED, privacy=replace(COUNTED.privacy, statistics=1.0))
    plan = homes.pin(homes.plan(COUNTED, statistics=plain(statistics_terms(more)), answers=2))
    failed(homes, tmp_path / "out", COUNTED, plan, "statistics are not those in this site's pinned plan")


def test_a_ledger_that_cannot_pay_refuses(homes: Homes, tmp_path: Path) -> None:
    homes.change_policy("b", "max_epsilon: null", "max_epsilon: 90.0")
    plan = homes.pin(homes.plan(COUNTED, statistics=plain(statistics_terms(COUNTED)), answers=2))
    failed(homes, tmp_path / "out", COUNTED, plan, "budget")


def test_they_are_asked_for_once_but_again_where_a_coordinator_died(homes: Homes, tmp_path: Path) -> None:
    link = Link(grid=None, run_id="ab" * 16, spec_json="{}", manifest_hash="a" * 64)  # type: ignore[arg-type]
    asked: list[str] = []

    def gather() -> list[ConnectedSite]:
        asked.append("yes")
        raise InterruptedError

    ask = partial(count_patients, link, COUNTED, Members(cohort=Cohort.of(homes.consortium.roster)), tmp_path)
    PatientCounts(run_id="ab" * 16, asked=1, failed="too few").write(tmp_path)
    ask(gather, lambda *_: None, lambda _: None)
    assert asked == []
    PatientCounts(run_id="ab" * 16, asked=1).write(tmp_path)
    with pytest.raises(InterruptedError):
        ask(gather, lambda *_: None, lambda _: None)
    assert asked == ["yes"]


def test_a_coordinator_that_died_with_the_sum_on_its_disk_asks_nobody_again(homes: Homes, tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = homes.pin(homes.plan(COUNTED, statistics=plain(statistics_terms(COUNTED)), answers=2))
    homes.run(out, APP, COUNTED, plan)
    found, kept = PatientCounts.read(out), read_sum(out, BEFORE)
    assert found is not None
    assert kept is not None
    link = Link(grid=None, run_id=kept.run_id, spec_json="{}", manifest_hash="a" * 64)  # type: ignore[arg-type]
    PatientCounts(run_id=kept.run_id, asked=1).write(out)
    log = PublicLog(tmp_path / "log", "0" * 32, key=tmp_path / "none.key")
    members = Members(cohort=Cohort.of(homes.consortium.roster), log=RunLog(log=log, plan="", roster=""))

    def gather() -> list[ConnectedSite]:
        raise AssertionError("the sites were asked again")

    count_patients(link, COUNTED, members, out, gather, lambda *_: None, lambda _: None)
    assert PatientCounts.read(out) == found
    assert [entry["sites"] for entry in log.entries()] == [["a", "b", "c"]]
    # The sum of an earlier run in the same folder is none of this one's.
    other = replace(link, run_id="0" * 32)
    with pytest.raises(AssertionError, match="asked again"):
        count_patients(other, COUNTED, members, out, gather, lambda *_: None, lambda _: None)


def test_the_rounds_get_what_the_statistics_leave_of_epsilon() -> None:
    config = replace(CONFIG, privacy=replace(CONFIG.privacy, z=0.0, epsilon=8.0, statistics=2.0))
    rounds, counts = run_terms(config), statistics_terms(config)
    assert rounds is not None
    assert counts is not None
    assert (counts.clip, counts.q, counts.steps) == (NORM, 1.0, 1)
    assert epsilon(profile([counts.charge()]), 1e-5) <= 2.0
    spent = adaptive_epsilon(profile([counts.charge(), rounds.charge(rounds.steps)]), 1e-5)
    assert 7.9 < spent <= 8.0
    without = run_terms(replace(config, privacy=replace(config.privacy, statistics=0.0)))
    assert without is not None
    assert without.z < rounds.z


@pytest.mark.parametrize("wrong", [{"mode": "none"}, {"mode": "site"}, {"mode": "shared", "epsilon": 1.0}])
def test_no_statistics_without_masks_or_beyond_the_budget(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"privacy\.statistics"):
        privacy_config(**{"cohort": 9, "sites": 3, "statistics": 2.0, **wrong})


@pytest.mark.parametrize("changes", [{"q": 0.5}, {"steps": 2}, {"mode": "local"}])
def test_statistics_by_other_terms_are_no_task(changes: dict[str, object]) -> None:
    terms = statistics_terms(COUNTED)
    assert terms is not None
    with pytest.raises(MessageError, match="statistics task"):
        StatisticsTask(size=SIZE, layout=LAYOUT, privacy=replace(terms, **changes).to_json())


def test_a_hospital_is_told_what_the_statistics_of_a_plan_cost(homes: Homes) -> None:
    counts = statistics_terms(COUNTED)
    homes.pin(homes.plan(COUNTED, statistics=plain(counts)))
    plan = homes.homes["a"].pinned_plan()
    assert plan is not None
    words = next(line for line in plan.in_words() if line.startswith("statistics, once"))
    assert counts is not None
    rounds = plan.terms
    assert rounds is not None
    both = [counts.charge(), rounds.charge(rounds.steps)]
    assert f"epsilon is {epsilon(profile(both), 1e-5):.2f}, or {epsilon(profile(both, alone=True), 1e-5):.2f}" in words
    assert budget_report(homes.homes["a"]).planned == pytest.approx(epsilon(profile(both), 1e-5))
    without = homes.plan(COUNTED)
    assert b"statistics" not in without, "sites of an older version read a plan that asks for none"

"""A coordinator that rewrites, cuts or forks its log, or tells a site another round than it had, is found by sites."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from client.app import client_app
from client.cli import app
from client.gate.secure_site import SITES
from client.site.seen_log import SeenLog
from privacy.secagg.context import Cohort
from privacy.wire.heads import RECEIPT
from server.record.public_log import MOST_TEXT, PublicLog, RunLog
from server.rounds.loop import run_federation
from server.sites.attendance import ANYONE, Members
from server.sites.dialect import DialectGrid
from shared_model.core.errors import PolicyError
from simulations.engine.run import run_local
from tests.builders.hospital_homes import CONFIG, MANIFEST, SIZE, SPEC, Homes, Pulls

RUN, SUM = "c" * 32, np.ones(3, np.uint32)


class Logged:
    """Three hospitals and a coordinator with a log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.homes = Homes(folder)
        self.log = self.opened("log")

    def opened(self, name: str) -> PublicLog:
        log = PublicLog(self.folder / name, self.homes.consortium.id, key=self.folder / "log.key")
        log.certify(self.homes.consortium.signer_key)
        return log

    def seen(self, site: str) -> SeenLog:
        return SeenLog(self.homes.homes[site])

    def tell(self, site: str, log: PublicLog | None = None) -> None:
        seen = self.seen(site)
        text = (log or self.log).receipt(seen.size())
        if text:
            seen.take(text)

    def run(self, name: str) -> None:
        """One round through the hospitals' own app."""
        members = Members(
            cohort=Cohort.of(self.homes.consortium.roster), log=RunLog(log=self.log, plan="", roster="4" * 64)
        )
        start = np.zeros(SIZE, np.float32)
        run_local(
            client_app(Pulls()),
            lambda grid, _: run_federation(
                DialectGrid(grid, ANYONE, None, self.log), CONFIG, SPEC, MANIFEST, start, self.folder / name,
                members=members,
            ),
            self.homes.nodes(),
            {},
        )  # fmt: skip

    def verify(self, site: str, *options: str) -> Result:
        return CliRunner().invoke(app, ["verify", "--home", str(self.homes.homes[site].folder), *options])


@pytest.fixture
def logged(tmp_path: Path):
    yield Logged(tmp_path)
    SITES.close()


def work(logged: Logged, site: str, number: int, signed: tuple[str, ...] = ("a", "b", "c")) -> None:
    """What a site notes of a round that it works in."""
    logged.seen(site).note_work(RUN, number, np.full(4, number - 1, np.float32))
    logged.seen(site).note_signed(RUN, number, signed)


def finish(logged: Logged, number: int, *sites: str, log: PublicLog | None = None, before: int | None = None) -> None:
    from tests.server.record.test_public_log import record

    vectors = (np.full(4, n, np.float32) for n in (number - 1 if before is None else before, number))
    RunLog(log=log or logged.log, plan="", roster="").add_round(RUN, record(number, *sites), *vectors, SUM)


def test_hospitals_get_receipts_for_the_rounds_they_worked_in(logged: Logged) -> None:
    """Through the app, secure sums and the round loop: the last round's receipt comes when the run ends."""
    logged.run("first")
    logged.run("second")
    for site in "abc":
        done = logged.verify(site, "--json")
        assert done.exit_code == 0, done.output
        told = json.loads(done.stdout)
        assert [entry["what"] for entry in told["rounds"]] == ["in the log"] * 2
        assert told["entries"] == 2
        signed = [own.signed for own in logged.seen(site).own_rounds()]
        assert signed == [(("a", "b", "c"),)] * 2


@pytest.mark.parametrize("how", ["a changed round", "a removed act"])
def test_a_rewritten_log_is_refused_and_the_evidence_kept(logged: Logged, how: str) -> None:
    for number in (1, 2, 3):
        logged.log.add("invite", site=f"s{number}")
        finish(logged, number, "a", "b", "c")
    logged.tell("a")
    lines = logged.log.path.read_bytes().splitlines(keepends=True)
    if how == "a changed round":
        lines[1] = lines[1].replace(b'"attempt":1', b'"attempt":2')
    else:
        del lines[2]
    shutil.copytree(logged.log.path.parent, logged.folder / "other")
    (logged.folder / "other" / "entries.jsonl").write_bytes(b"".join(lines))
    other = logged.opened("other")
    for number in (4, 5):
        finish(logged, number, "a", "b", "c", log=other)
    with pytest.raises(PolicyError, match="log: the coordinator's log is not the one seen here"):
        logged.tell("a", other)
    assert logged.seen("a").size() == 6
    assert logged.verify("a").exit_code != 0
    assert logged.seen("a").refused() == 1
    finish(logged, 4, "a", "b", "c")
    logged.tell("a")  # the log that it knows still goes on
    assert logged.seen("a").size() == 7


def test_what_nobody_signed_is_refused_and_is_no_evidence(logged: Logged) -> None:
    finish(logged, 1, "a", "b", "c")
    logged.tell("a")
    text = logged.log.receipt(0)
    for junk in ("{}", "no receipt", text[:-2], text.replace('"size":1', '"size":2')):
        with pytest.raises(PolicyError):
            logged.seen("a").take(junk)
    assert (logged.seen("a").size(), logged.seen("a").refused()) == (1, 0)


def test_a_receipt_for_many_sites_is_cut_to_what_a_message_holds(logged: Logged) -> None:
    many = [f"hospital-of-a-long-name-{number:04d}" for number in range(150)]
    for number in range(1, 13):
        finish(logged, number, *many)
    text = logged.log.receipt(0)
    assert 0 < len(text) <= MOST_TEXT
    assert RECEIPT.accepts(text)
    finish(logged, 13, *(f"{name}-{extra}" for name in many for extra in range(20)))
    seen = 12
    assert logged.log.receipt(seen) == "", "too many for any message: it asks nothing of the sites"


def test_a_log_that_lost_entries_is_refused_until_they_are_back(logged: Logged) -> None:
    """Restored from an older copy. An older head proves nothing against anybody, so none is kept as evidence."""
    for number in (1, 2, 3):
        finish(logged, number, "a", "b", "c")
        logged.tell("b")
    logged.tell("a")
    whole = logged.log.path.read_bytes()
    older = logged.opened("older")
    older.path.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    assert older.receipt(3), "a site that has seen more gets the head as it is"
    with pytest.raises(PolicyError, match="3 entries were seen, and 2 do not go on from them"):
        logged.tell("a", older)
    assert (logged.seen("a").size(), logged.seen("a").refused()) == (3, 0)
    finish(logged, 4, "a", "b", "c", log=older)
    finish(logged, 5, "a", "b", "c", log=older)
    with pytest.raises(PolicyError):
        logged.tell("a", older)
    finish(logged, 4, "a", "b", "c")
    logged.tell("a")
    assert logged.seen("a").size() == 4


def test_a_message_that_comes_late_is_no_fork(logged: Logged) -> None:
    """An answer was lost, so the coordinator does not know what the site has seen by now."""
    finish(logged, 1, "a")
    first = logged.log.receipt(0)
    logged.seen("a").take(first)
    finish(logged, 2, "a")
    second = logged.log.receipt(1)
    logged.seen("a").take(second)
    for late in (first, second):
        logged.seen("a").take(late)
    finish(logged, 3, "a")
    logged.seen("a").take(logged.log.receipt(1))  # goes on from a head that is not the newest here
    with pytest.raises(PolicyError):
        logged.seen("a").take(logged.log.receipt(0))
    assert (logged.seen("a").size(), logged.seen("a").refused()) == (2, 0)
    logged.tell("a")
    assert [head.size for head in logged.seen("a").heads()] == [1, 2, 3]


def test_two_sites_that_compare_heads_find_a_forked_log(logged: Logged) -> None:
    finish(logged, 1, "a", "b", "c")
    logged.tell("a")
    other = logged.opened("other")
    finish(logged, 1, "a", "c", log=other)
    for site, log in (("b", logged.log), ("c", other)):
        logged.tell(site, log)
    files = {site: logged.folder / f"{site}.heads" for site in "bc"}
    for site, file in files.items():
        assert logged.verify(site, "--heads", str(file)).exit_code == 0
    same, forked = (logged.verify("a", "--compare", str(files[site])) for site in "bc")
    assert same.exit_code == 0, same.output
    assert "the same log, compared up to entry 1" in same.output
    assert forked.exit_code != 0
    assert "ANOTHER LOG" in forked.output


def test_heads_of_other_sizes_are_not_taken_for_equal(logged: Logged) -> None:
    finish(logged, 1, "a")
    logged.tell("a")
    finish(logged, 2, "a")
    logged.tell("b")
    file = logged.folder / "b.heads"
    logged.verify("b", "--heads", str(file))
    found = logged.verify("a", "--compare", str(file))
    assert found.exit_code == 0
    assert "no head of the same size yet" in found.output
    file.write_bytes(file.read_bytes().replace(b'"size":2', b'"size":1'))
    assert logged.verify("a", "--compare", str(file)).exit_code != 0


@pytest.mark.parametrize(
    ("sites", "before", "signed", "told"),
    [
        (("a", "b", "c"), 7, ("a", "b", "c"), "ANOTHER MODEL"),
        (("a", "b"), 0, ("a", "b", "c"), "OTHER SITES"),
        (("b", "c"), 0, ("a", "b", "c"), "without this site's answer"),
        (("a", "b", "c"), 0, ("a", "b", "c"), "in the log"),
    ],
)
def test_a_round_that_was_another_one_than_the_site_had_is_named(
    logged: Logged, sites: tuple[str, ...], before: int, signed: tuple[str, ...], told: str
) -> None:
    work(logged, "a", 1, signed)
    finish(logged, 1, *sites, before=before)
    logged.tell("a")
    found = logged.verify("a")
    assert told in found.output
    assert (found.exit_code != 0) == told.isupper()


@pytest.mark.parametrize(
    ("sites", "told"),
    [
        (("a", "b", "c"), "statistics: in the log"),
        (("a", "b"), "statistics: OTHER SITES"),
        (("b", "c"), "statistics: in the log, without this site's answer"),
        ((), "statistics: no receipt: without one, a card of this run must have no ranges"),
    ],
)
def test_statistics_over_other_sites_than_were_signed_are_named(
    logged: Logged, sites: tuple[str, ...], told: str
) -> None:
    """They come before the first round, so a receipt may bring them alone or with it."""
    logged.seen("a").note_signed(RUN, 0, ("a", "b", "c"))
    work(logged, "a", 1)
    if sites:
        RunLog(log=logged.log, plan="", roster="").add_statistics(RUN, 1, sites, SUM, {"patients": 6})
    finish(logged, 1, "a", "b", "c")
    logged.tell("a")
    found = logged.verify("a")
    assert f"run {RUN[:8]} {told}" in found.output
    assert f"run {RUN[:8]} round 1: in the log" in found.output
    assert (found.exit_code != 0) == ("OTHER SITES" in told)


def test_a_round_that_is_left_out_of_the_log_is_named_once_a_later_one_is_in_it(logged: Logged) -> None:
    work(logged, "a", 1)
    assert "no receipt yet" in logged.verify("a").output
    finish(logged, 2, "a", "b", "c")
    logged.tell("a")
    found = logged.verify("a")
    assert "LEFT OUT" in found.output
    assert found.exit_code != 0


def test_messages_that_bring_the_same_receipt_at_once_are_no_fork(logged: Logged) -> None:
    """A site's app answers in several threads."""
    logged.tell("b")
    for number in (1, 2):
        finish(logged, number, "a", "b", "c")
        text = logged.log.receipt(number - 1)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _, told=text: logged.seen("a").take(told), range(8)))
    assert [head.size for head in logged.seen("a").heads()] == [1, 2]
    assert logged.verify("a").exit_code == 0


def test_a_hospital_begins_anew_only_when_its_own_staff_say_so(logged: Logged) -> None:
    finish(logged, 1, "a")
    logged.tell("a")
    other = logged.opened("other")
    finish(logged, 2, "a", log=other)
    with pytest.raises(PolicyError):
        logged.seen("a").take(other.receipt(0))
    assert logged.verify("a", "--new-log").exit_code == 0
    logged.tell("a", other)
    assert logged.seen("a").size() == 1
    assert len(list((logged.homes.homes["a"].folder / "state").glob("log.*"))) == 1

"""The coordinator's log on its disk: it only grows, survives a torn line, and gives receipts that sites accept."""

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from privacy.trust.public_log import Receipt, TreeHead
from server.record.history import RoundRecord
from server.record.public_log import PublicLog, RunLog
from shared_model.core.errors import InputError
from tests.builders.consortium import Consortium

CONSORTIUM = Consortium()
RUN = "c" * 32


def opened(folder: Path) -> PublicLog:
    return PublicLog(folder / "log", CONSORTIUM.id, key=folder / "log.key")


def made(folder: Path) -> PublicLog:
    log = opened(folder)
    log.certify(CONSORTIUM.signer_key)
    return log


def record(number: int, *sites: str) -> RoundRecord:
    return RoundRecord(
        round=number, lr=1.0, attempt=1, sites=dict.fromkeys(sites, 1), norms={}, metrics={}, per_site={}, drops=(),
        wire_bytes=0, wall_s=0.0,
    )  # fmt: skip


def finish(log: PublicLog, number: int, *sites: str) -> None:
    before, after = (np.full(4, n, np.float32) for n in (number - 1, number))
    RunLog(log=log, plan="", roster="4" * 64).add_round(RUN, record(number, *sites), before, after, after)


def take(text: str, seen: TreeHead | None) -> TreeHead:
    return Receipt.from_text(text).check(CONSORTIUM.signer_public, seen, CONSORTIUM.id)


def test_a_site_follows_the_log_whatever_it_has_seen(tmp_path: Path) -> None:
    log, heads = made(tmp_path), [None]
    for number in range(1, 6):
        log.add("invite", site=f"s{number}")
        finish(log, number, "a", "b")
        heads += [take(log.receipt(0 if seen is None else seen.size), seen) for seen in heads[-2:]]  # type: ignore
    assert heads[-1] is not None
    assert heads[-1].size == log.size() == 10
    assert log.receipt(10) == ""
    assert [entry.line["round"] for entry in Receipt.from_text(log.receipt(4)).rounds] == [3, 4, 5]
    assert "s1" not in log.receipt(0), "who was invited is told to nobody else"


def test_a_long_absence_is_told_in_several_receipts(tmp_path: Path) -> None:
    log, seen, told = made(tmp_path), None, []
    for number in range(1, 31):
        finish(log, number, "a")
    while text := log.receipt(0 if seen is None else seen.size):
        seen = take(text, seen)
        told += [entry.line["round"] for entry in Receipt.from_text(text).rounds]
        assert len(text) < 100_000
    assert told == list(range(1, 31))


def test_a_step_that_is_taken_again_after_a_crash_is_logged_once(tmp_path: Path) -> None:
    log = made(tmp_path)
    finish(log, 1, "a", "b")
    finish(log, 1, "b", "a")
    assert log.size() == 1
    finish(log, 1, "a")  # repeated with other sites: both are told
    assert log.size() == 2


def test_statistics_are_logged_once_and_a_receipt_proves_them(tmp_path: Path) -> None:
    log, ring = made(tmp_path), np.arange(4, dtype=np.uint32)
    run = RunLog(log=log, plan="", roster="4" * 64)
    for sites in (("a", "b"), ("b", "a")):
        run.add_statistics(RUN, 1, sites, ring, {"patients": 3})
    finish(log, 1, "a", "b")
    run.add_statistics(RUN, 1, ("a", "b"), ring, {"patients": 3})
    assert [entry["act"] for entry in log.entries()] == ["statistics", "round"]
    assert log.entries()[0]["sum"] != log.entries()[0]["trained_on"]
    text = log.receipt(0)
    assert take(text, None).size == 2
    assert [entry.line["act"] for entry in Receipt.from_text(text).rounds] == ["statistics", "round"]
    run.add_statistics(RUN, 2, ("a", "b"), ring, {"patients": 3})  # the sites were asked twice: both are told
    assert log.size() == 3


def test_a_line_that_a_crash_cut_off_is_not_in_the_log(tmp_path: Path) -> None:
    log = made(tmp_path)
    log.add("invite", site="a")
    with log.path.open("ab") as file:
        file.write(b'{"act":"inv')
    assert log.size() == 1
    log.add("invite", site="b")
    assert [entry["site"] for entry in log.entries()] == ["a", "b"]
    assert opened(tmp_path).root() == log.root()


def test_a_line_that_is_no_entry_is_named(tmp_path: Path) -> None:
    log = made(tmp_path)
    log.add("invite", site="a")
    log.path.write_bytes(log.path.read_bytes() + b'{"b": 1}\n')
    with pytest.raises(InputError, match="line 2 is no entry"):
        opened(tmp_path).entries()


def _add(folder: Path, name: str) -> None:
    for number in range(20):
        opened(folder).add("invite", site=f"{name}{number}")


def test_two_processes_add_at_once_and_no_line_is_lost(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add, args=(tmp_path, name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found = [entry["site"] for entry in opened(tmp_path).entries()]
    assert sorted(found) == sorted(f"{name}{number}" for name in "ab" for number in range(20))


def test_without_a_certified_key_there_are_entries_and_no_heads(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.add("invite", site="a")
    assert log.head() is None
    assert log.receipt(0) == ""
    log.certify(CONSORTIUM.signer_key)
    assert json.loads(log.head() or b"")["document"]["size"] == 1
    assert log.kept_head.read_bytes() == log.head()

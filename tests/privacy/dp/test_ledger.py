"""The ledger: charges before sending, refusals, edits, and kill -9 at every write."""

import json
import os
import random
import signal
from pathlib import Path

import pytest

from privacy.dp import ledger as module
from privacy.dp import ledger_record
from privacy.dp.accountant import Charge, adaptive_epsilon, epsilon
from privacy.dp.ledger import SiteLedger
from privacy.dp.ledger_record import LedgerEntry
from shared_model.core.errors import InputError, PolicyError

CHARGE = Charge(z=4.0, z_alone=2.0, q=1.0)


def entry(round_number: int = 1, charge: Charge = CHARGE) -> LedgerEntry:
    return LedgerEntry(purpose="shared", run_id="0" * 32, round=round_number, charge=charge)


def opened(folder: Path, limit: float | None = None, alone: float | None = None) -> SiteLedger:
    found = SiteLedger(folder=folder, delta=1e-5, limit=limit, limit_alone=alone)
    found.create()
    return found


@pytest.mark.parametrize("there", [True, False], ids=["an empty mount point", "no folder"])
def test_a_ledger_that_is_not_there_is_not_taken_for_an_empty_one(tmp_path: Path, there: bool) -> None:
    ledger = SiteLedger(folder=tmp_path / "ledger", delta=1e-5)
    if there:
        ledger.folder.mkdir()
    for use in (lambda: ledger.check(CHARGE), lambda: ledger.charge(entry()), ledger.entries, ledger.spent):
        with pytest.raises(InputError, match="no privacy ledger is here"):
            use()
    assert ledger.folder.exists() == there
    assert list(tmp_path.rglob("*")) == ([ledger.folder] if there else [])
    ledger.create()
    ledger.charge(entry())
    ledger.create()
    assert len(ledger.entries()) == 1


@pytest.mark.parametrize("gone", [("head.json",), ("ledger.jsonl",), ("ledger.jsonl", "head.json"), ("lock",)])
@pytest.mark.parametrize("charges", [0, 1, 3])
def test_a_file_that_is_missing_is_an_error_in_every_state(tmp_path: Path, gone: tuple[str, ...], charges: int) -> None:
    """Records and head deleted together, with the lock left: before, that was a ledger with nothing spent."""
    ledger = opened(tmp_path)
    for number in range(charges):
        ledger.charge(entry(number + 1))
    for name in gone:
        (tmp_path / name).unlink(missing_ok=True)
    if gone == ("ledger.jsonl",) and charges == 0:
        assert ledger.entries() == []  # nothing was there to delete
        return
    for use in (lambda: ledger.check(CHARGE), lambda: ledger.charge(entry(9)), ledger.entries, ledger.show):
        with pytest.raises(InputError, match=r"ledger was changed|no privacy ledger is here"):
            use()
    if gone == ("lock",) and charges:
        with pytest.raises(InputError, match="its lock is missing"):
            ledger.create()


def test_a_ledger_keeps_its_id_and_numbers_what_it_shows(tmp_path: Path) -> None:
    ledger = opened(tmp_path / "one")
    assert len(ledger.id) == 32
    assert opened(tmp_path / "one").id == ledger.id != opened(tmp_path / "two").id
    first = ledger.show()
    ledger.charge(entry(1))
    second, third = ledger.show(), opened(tmp_path / "one").show()
    assert [shown.number for shown in (first, second, third)] == [1, 2, 3]
    assert [shown.records for shown in (first, second, third)] == [0, 1, 1]
    assert (second.before[0], third.before[0]) == (first.hash, second.hash)
    assert ledger.id == opened(tmp_path / "one").id


def test_charges_stay_over_runs_stages_and_coordinators(tmp_path: Path) -> None:
    opened(tmp_path).charge(entry(1))
    opened(tmp_path).charge(
        LedgerEntry(purpose="local", run_id="1" * 32, round=7, charge=Charge(z=1, z_alone=1, q=0.1))
    )
    found = opened(tmp_path).entries()
    assert [(e.purpose, e.run_id[0], e.round) for e in found] == [("shared", "0", 1), ("local", "1", 7)]
    spent = opened(tmp_path).spent()
    assert spent.epsilon == adaptive_epsilon({(4.0, 1.0): 1, (1.0, 0.1): 1}, 1e-5)
    assert spent.epsilon_alone == adaptive_epsilon({(2.0, 1.0): 1, (1.0, 0.1): 1}, 1e-5)
    assert spent.entries == 2
    assert oct((tmp_path / "ledger.jsonl").stat().st_mode)[-3:] == "600"


def test_a_spent_budget_refuses_and_writes_nothing(tmp_path: Path) -> None:
    limit = epsilon({(4.0, 1.0): 5}, 1e-5) + 1e-6
    for number in range(1, 6):
        opened(tmp_path, limit).charge(entry(number), ahead=10 - number)
    before = (tmp_path / "ledger.jsonl").read_bytes()
    with pytest.raises(PolicyError, match=r"max_epsilon: .* spent"):
        opened(tmp_path, limit).charge(entry(6))
    assert (tmp_path / "ledger.jsonl").read_bytes() == before
    opened(tmp_path).charge(entry(6))  # without a limit it counts on


def test_the_second_epsilon_has_a_limit_of_its_own(tmp_path: Path) -> None:
    limit = epsilon({(2.0, 1.0): 2}, 1e-5) + 1e-6
    for number in (1, 2):
        opened(tmp_path, None, limit).charge(entry(number))
    with pytest.raises(PolicyError, match="max_epsilon_alone"):
        opened(tmp_path, None, limit).charge(entry(3))


def test_many_releases_in_one_charge_count_as_many(tmp_path: Path) -> None:
    limit = epsilon({(4.0, 1.0): 5}, 1e-5) + 1e-6
    with pytest.raises(PolicyError):
        opened(tmp_path, limit).charge(entry(1, Charge(z=4.0, z_alone=2.0, q=1.0, count=6)))
    opened(tmp_path, limit).charge(entry(1, Charge(z=4.0, z_alone=2.0, q=1.0, count=5)))


def _three(folder: Path) -> list[str]:
    for number in (1, 2, 3):
        opened(folder).charge(entry(number))
    return (folder / "ledger.jsonl").read_text().splitlines(keepends=True)


def _edited(lines: list[str]) -> list[str]:
    return [lines[0], lines[1].replace('"z":4.0', '"z":9.0'), lines[2]]


def _rehashed(lines: list[str]) -> list[str]:
    record = json.loads(lines[1])
    del record["hash"]
    record["z"] = 9.0
    record["hash"] = ledger_record._hash(record)
    return [lines[0], json.dumps(record, sort_keys=True, separators=(",", ":")) + "\n", lines[2]]


@pytest.mark.parametrize(
    "change",
    [
        _edited,
        _rehashed,
        lambda lines: lines[:2],
        lambda lines: lines[1:],
        lambda lines: [lines[1], lines[0], lines[2]],
        lambda lines: [*lines, lines[2]],
        lambda lines: [],
        lambda lines: [lines[0], "\n", *lines[1:]],
        lambda lines: [lines[0], lines[1], lines[2].rstrip("\n")],
        lambda lines: [line.replace(":4.0", ": 4.0") for line in lines],
    ],
    ids=["edited", "rehashed", "cut", "beheaded", "swapped", "repeated", "emptied", "blank", "unended", "reformatted"],
)
def test_an_edited_ledger_is_refused(tmp_path: Path, change) -> None:  # type: ignore[no-untyped-def]
    lines = _three(tmp_path)
    (tmp_path / "ledger.jsonl").write_text("".join(change(lines)))
    for use in (lambda: opened(tmp_path).charge(entry(4)), lambda: opened(tmp_path).entries()):
        with pytest.raises(InputError, match="ledger was changed"):
            use()


@pytest.mark.parametrize("head", [b"", b"{}", b"x", b'{"records":3,"hash":"00"}', b'{"records":1,"hash":"00"}'])
def test_an_edited_head_is_refused(tmp_path: Path, head: bytes) -> None:
    _three(tmp_path)
    (tmp_path / "head.json").write_bytes(head)
    with pytest.raises(InputError, match="ledger was changed"):
        opened(tmp_path).charge(entry(4))


def test_two_processes_charge_one_after_the_other(tmp_path: Path) -> None:
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            for number in range(1, 6):
                opened(tmp_path).charge(entry(number))
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert len(opened(tmp_path).entries()) == 20


class _KilledAt:
    """Stands in for the ledger's ``os``: SIGKILL before, within or after the n-th call that changes the disk."""

    def __init__(self, call: int, when: str) -> None:
        self._left, self._when = call, when

    def __getattr__(self, name: str):  # type: ignore[no-untyped-def]
        real = getattr(os, name)
        if name not in ("open", "write", "fsync", "replace", "ftruncate", "close"):
            return real

        def call(*arguments):  # type: ignore[no-untyped-def]
            self._left -= 1
            if self._left:
                return real(*arguments)
            if name == "write" and self._when == "middle":
                real(arguments[0], arguments[1][: random.randrange(len(arguments[1]))])
            elif self._when == "after":
                real(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError("unreachable")

        return call


def _round_killed_at(folder: Path, wire: Path, call: int, when: str, create: bool = False) -> bool:
    """One charge and one send in a process that dies at its ``call``-th change; tells whether it got through alive."""
    child = os.fork()
    if child == 0:
        module.os = _KilledAt(call, when)  # type: ignore[assignment]
        ledger = SiteLedger(folder=folder, delta=1e-5)
        if create:
            ledger.create()
        ledger.charge(entry(1))
        descriptor = os.open(wire, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, b"x")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return not os.WIFSIGNALED(status)


@pytest.mark.parametrize("made", ["made", "not made"])
def test_kill_9_at_a_first_charge_locks_nobody_out(tmp_path: Path, made: str) -> None:
    for call in range(1, 40):
        for when in ("before", "middle", "after"):
            folder = tmp_path / f"{call}-{when}"
            ledger = SiteLedger(folder=folder, delta=1e-5)
            if made == "made":
                ledger.create()
            alive = _round_killed_at(folder, tmp_path / "wire", call, when, create=made == "not made")
            if made == "not made":
                ledger.create()
            before = len(ledger.entries())
            assert before in ((1,) if alive else (0, 1))
            ledger.charge(entry(2))
            assert len(ledger.entries()) == before + 1
    assert alive, "not every call of a first charge was tried"


def test_kill_9_at_every_write_never_under_counts(tmp_path: Path) -> None:
    """On one ledger that is never cleaned: 200 rounds killed, each at another point, and some that live between."""
    opened(tmp_path / "ledger")
    wire = tmp_path / "wire"
    trials = killed = 0
    call = 0
    while killed < 200:
        call = call % 18 + 1
        for when in ("before", "middle", "after"):
            alive = _round_killed_at(tmp_path / "ledger", wire, call, when)
            trials, killed = trials + 1, killed + (not alive)
            sent = wire.stat().st_size if wire.exists() else 0
            written = len(opened(tmp_path / "ledger").entries())
            assert sent <= written <= trials
    assert trials > killed + 10  # rounds that live were tried, too
    opened(tmp_path / "ledger").charge(entry(1))

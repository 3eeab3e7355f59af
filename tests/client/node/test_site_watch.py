"""A site's start looks after two processes: which one is restarted, and why; what it says of keys and dates first."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.node import start as site_start
from client.node import watchdog
from client.node.start import require_node_key, start
from client.node.watchdog import SILENT_WORK_S, TaskTimes, Watchdog
from client.setup import enrol
from client.site.home import ClientHome
from client.site.ledger_binding import MARK, bind
from client.site.policy import Policy
from privacy.flower.processes import read_state, write_state
from privacy.trust.identity import new_node_key
from shared_model.core.errors import InputError
from tests.builders.consortium import Consortium
from tests.builders.hospital_homes import Homes


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(watchdog, "time", found)
    return found


@pytest.mark.parametrize("state", ["idle", "working"])
def test_an_executor_that_gives_no_sign_of_life_is_started_anew(clock: Clock, state: str) -> None:
    """A stopped one said "idle" while the site said "connected"; nobody ever restarted it."""
    dog, executor = Watchdog(), {"state": state, "since": 1.0}
    assert dog.hangs(7, executor, 1e9, beat=1) == ""
    clock.now = SILENT_WORK_S + 1
    assert dog.hangs(7, executor, 1e9, beat=1) == "no sign of life"
    assert dog.hangs(7, executor, 1e9, beat=2) == ""
    clock.now += SILENT_WORK_S + 1
    assert dog.hangs(8, executor, 1e9, beat=2) == "", "a process that has just started has its time"
    assert dog.hangs(None, executor, 1e9, beat=2) == ""


def test_a_task_may_take_a_few_times_what_its_like_took_here_and_never_less_than_ten_minutes() -> None:
    times = TaskTimes(longest_s=24 * 3600.0)
    assert times.limit_s("train") == 24 * 3600.0, "nobody knows yet"
    times.took("train", 600.0)
    times.took("train", 300.0)
    assert times.limit_s("train") == 5 * 600.0
    assert times.limit_s("evaluate") == 24 * 3600.0
    times.took("evaluate", 2.0)
    assert times.limit_s("evaluate") == 600.0
    times.gave_up("evaluate")
    assert times.limit_s("evaluate") == 2400.0, "a longer task than before must get its time in the end"
    for _ in range(9):
        times.gave_up("evaluate")
    assert times.limit_s("evaluate") == 24 * 3600.0
    times.took("evaluate", 2000.0)
    assert times.limit_s("evaluate") == 5 * 2000.0


def test_the_policys_longest_time_holds(tmp_path: Path) -> None:
    times = TaskTimes(longest_s=300.0)
    times.took("train", 100.0)
    assert times.limit_s("train") == 300.0


def test_a_node_key_that_was_cut_short_is_named_before_anything_starts(tmp_path: Path) -> None:
    """It ended in a crash loop of the SuperNode, which the status showed as "connecting"."""
    home = ClientHome(folder=tmp_path, site="north", consortium="0" * 32, name="c", server="localhost:1")
    home.node_key.parent.mkdir()
    key, _ = new_node_key()
    home.node_key.write_bytes(key)
    require_node_key(home)
    for content in (key[: len(key) // 2], b""):
        home.node_key.write_bytes(content)
        with pytest.raises(InputError, match=r"keys/node: cannot be read .*backup"):
            require_node_key(home)
    home.node_key.unlink()
    with pytest.raises(InputError, match="keys/node"):
        require_node_key(home)


def test_a_site_whose_patients_another_ledger_counts_does_not_start(tmp_path: Path) -> None:
    """It started, joined, and refused each request when it should have been paid for."""
    root = tmp_path / "cases"
    root.mkdir()
    (root / "p0.npz").touch()
    (root / "p1.npz").touch()
    consortium = Consortium()
    data = enrol.Data(kind="cases", root=root, site_config=None)
    for name in ("north", "south"):
        (tmp_path / name).write_bytes(consortium.invitation(name).to_json())
        home = enrol.create(tmp_path / name, tmp_path / f"home-{name}", data)
        (root / MARK).unlink()  # as if each had been made before there were marks
    first = Policy.load(tmp_path / "home-north" / "policy.yaml").ledger_in(tmp_path / "home-north")
    bind(root, first)
    with pytest.raises(InputError, match="counted in another privacy ledger"):
        start(home, lambda _: pytest.fail("it started"))


def test_an_earlier_starts_process_id_is_gone_before_anybody_can_stop_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`client leave` ends the process whose id is there. That number may be another program's by now."""
    home = Homes(tmp_path).homes["a"]
    home.node_key.parent.mkdir(exist_ok=True)
    home.node_key.write_bytes(new_node_key()[0])
    write_state(home.state("start"), {"pid": 1})
    seen = []
    monkeypatch.setattr(site_start, "supervise", lambda *_: seen.append(read_state(home.state("start"))))
    start(home, lambda _: None)
    assert seen == [{}]

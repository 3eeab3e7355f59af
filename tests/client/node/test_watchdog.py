"""When a SuperNode must restart: tasks that no process works on, silence; and what FleetWatch makes of answers."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PullMessagesRequest
from flwr.supercore.protobuf.client import ProtobufRequestContext

from client.node import start as node
from client.node import watchdog
from client.node.fleet_watch import FleetWatch, LostError
from client.node.status import EXECUTOR, SUPERNODE
from client.node.watchdog import LOST_TASK_S, NO_MESSAGE_S, SILENT_S, Watchdog
from client.site.config import SiteConfig
from client.site.home import ClientHome
from privacy.flower.processes import Child, read_state, write_state

HOLDING = {"connection": "connected", "holding": True, "busy": False}
IDLE = {"state": "idle", "since": 5.0}


class Clock:
    """Stands in for the time module that the watchdog reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(watchdog, "time", self)

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def after(clock: Clock, seconds: float, supernode: dict[str, Any], executor: dict[str, Any], pid: int = 7) -> str:
    """The reason after so many seconds of signs of life in this state."""
    dog = Watchdog()
    reason = ""
    for step in range(int(seconds) + 1):
        clock.now = float(step)
        reason = dog.reason(pid, {**supernode, "alive": step}, executor)
    return reason


def test_a_task_that_nobody_works_on_is_lost(clock: Clock) -> None:
    assert after(clock, LOST_TASK_S + 1, HOLDING, IDLE) == "its task was lost"
    assert after(clock, LOST_TASK_S - 1, HOLDING, IDLE) == ""


def test_a_task_without_its_message_is_given_up(clock: Clock) -> None:
    waits = {**IDLE, "state": "working", "task": None}
    for supernode in (HOLDING, {**HOLDING, "holding": False}):
        assert after(clock, NO_MESSAGE_S + 1, supernode, waits) == "the message of its task did not come"
        assert after(clock, NO_MESSAGE_S - 1, supernode, waits) == ""
    assert after(clock, 2 * NO_MESSAGE_S, {**HOLDING, "busy": True}, waits) == ""


@pytest.mark.parametrize(
    ("supernode", "executor"),
    [
        (HOLDING, {**IDLE, "state": "working", "task": {"kind": "train"}}),  # hours of training
        ({**HOLDING, "busy": True}, IDLE),  # a large answer on a slow line
        ({**HOLDING, "connection": "retrying"}, IDLE),  # an answer waits for the line
        ({**HOLDING, "holding": False}, IDLE),  # nothing to do
    ],
)
def test_a_site_that_waits_or_works_is_left_alone(
    clock: Clock, supernode: dict[str, Any], executor: dict[str, Any]
) -> None:
    assert after(clock, 1000, supernode, executor) == ""


def test_silence_and_a_new_process(clock: Clock) -> None:
    dog = Watchdog()
    state = {"connection": "connected", "alive": 1.0}
    assert dog.reason(7, state, IDLE) == ""
    clock.now = SILENT_S - 1
    assert dog.reason(7, state, IDLE) == ""
    clock.now = SILENT_S + 1
    assert dog.reason(7, state, IDLE) == "no sign of life"
    assert dog.reason(8, state, IDLE) == "", "a process that has just started has its time"
    assert dog.reason(None, state, IDLE) == ""


def ask(watch: FleetWatch, call: str, answer: httpx.Response | Exception) -> httpx.Response:
    request = httpx.Request("POST", f"https://127.0.0.1:1/v1/fleet/{call}")

    def call_next(_: ProtobufRequestContext) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        answer.request = request
        return answer

    return watch.intercept(ProtobufRequestContext("", PullMessagesRequest(), request), call_next)


@pytest.fixture
def watch(tmp_path: Path) -> FleetWatch:
    return FleetWatch(tmp_path / "state.json")


@pytest.mark.parametrize("call", ["send-node-heartbeat", "push-messages", "push-object", "pull-object", "get-fab"])
def test_an_error_500_is_one_that_flower_retries(watch: FleetWatch, call: str) -> None:
    assert ask(watch, call, httpx.Response(500)).status_code == 503


def test_a_cut_in_the_handshake_is_no_wrong_certificate(watch: FleetWatch) -> None:
    for text, shown in (
        ("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol", "no connection"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "[SSL: CERTIFICATE_VERIFY_FAILED]"),
    ):
        with pytest.raises(httpx.ConnectError) as caught:
            ask(watch, "pull-messages", httpx.ConnectError(text))
        assert str(caught.value).startswith(shown)


def test_a_proxy_that_says_no_is_asked_again_and_named(watch: FleetWatch, tmp_path: Path) -> None:
    with pytest.raises(httpx.ConnectError, match="no connection"):
        ask(watch, "pull-messages", httpx.ProxyError("407 Proxy Authentication Required"))
    assert "407 Proxy" in json.loads((tmp_path / "state.json").read_text())["why"]
    ask(watch, "send-node-heartbeat", httpx.Response(200))
    assert json.loads((tmp_path / "state.json").read_text())["why"] == ""


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        ("pull-messages", httpx.ReadError("cut")),
        ("pull-messages", httpx.Response(500)),
        ("pull-messages", httpx.Response(502)),
        ("push-messages", httpx.Response(404)),
        ("get-run", httpx.Response(400)),
        ("pull-object", httpx.Response(403)),
        ("confirm-message-received", httpx.Response(403)),
    ],
)
def test_what_may_have_lost_a_message_ends_the_process(
    watch: FleetWatch, call: str, answer: httpx.Response | Exception
) -> None:
    with pytest.raises(LostError):
        ask(watch, call, answer)


@pytest.mark.parametrize(
    ("call", "code"),
    [("pull-messages", 403), ("push-messages", 403), ("pull-messages", 401), ("activate-node", 404)],
)
def test_what_flower_handles_itself_is_left_to_it(watch: FleetWatch, call: str, code: int) -> None:
    assert ask(watch, call, httpx.Response(code)).status_code == code


def test_the_state_file_says_what_the_next_one_needs(tmp_path: Path, watch: FleetWatch) -> None:
    state = tmp_path / "state.json"
    assert (watch.node_id, watch.released, read_state(state)["connection"]) == (None, True, "connecting")
    content = ActivateNodeResponse(node_id=2**64 - 3).SerializeToString()
    ask(watch, "activate-node", httpx.Response(200, content=content, headers={"date": "Thu, 01 Jan 1970 00:00:00 GMT"}))
    noted = read_state(state)
    assert (noted["node_id"], noted["released"], noted["connection"]) == (2**64 - 3, False, "connected")
    assert noted["clock_offset_s"] > 1e9
    assert noted["pid"] == os.getpid()
    ask(watch, "confirm-message-received", httpx.Response(200))
    assert read_state(state)["holding"]
    after_a_kill = FleetWatch(state)
    assert (after_a_kill.node_id, after_a_kill.released) == (2**64 - 3, False)
    ask(after_a_kill, "deactivate-node", httpx.Response(200))
    assert FleetWatch(state).released


def test_a_kill_while_it_says_that_it_is_back_leaves_it_to_be_released(tmp_path: Path, watch: FleetWatch) -> None:
    state = tmp_path / "state.json"
    ask(watch, "activate-node", httpx.Response(200, content=ActivateNodeResponse(node_id=5).SerializeToString()))
    ask(watch, "deactivate-node", httpx.Response(200))
    again = FleetWatch(state)
    with pytest.raises(httpx.ReadError):  # the coordinator may have taken it, and took no second one in that state
        ask(again, "activate-node", httpx.ReadError("cut"))
    assert not FleetWatch(state).released


def test_a_task_that_never_ends_is_given_up(clock: Clock) -> None:
    dog = Watchdog()
    works = {**IDLE, "state": "working", "task": {"kind": "train"}}

    def at(now: float, executor: dict[str, Any], pid: int | None = 7) -> str:
        clock.now = now
        return dog.hangs(pid, executor, 100.0, beat=int(now))

    assert [at(0, works), at(100, works)] == ["", ""]
    assert at(101, works) == "a task took longer than 1.67 min"
    assert at(102, works, pid=8) == "", "it was started anew"
    assert at(150, {**works, "since": 140.0}, pid=8) == "", "another task"
    assert at(251, {**works, "since": 140.0}, pid=8) != ""
    assert at(500, {**IDLE, "since": 300.0}, pid=8) == ""
    assert at(900, {**IDLE, "since": 300.0}, pid=8) == "", "idle for long"


def test_a_task_hangs_as_long_whatever_the_supernode_does(clock: Clock) -> None:
    """One watchdog judges both, and the SuperNode may be away again and again while the work hangs."""
    dog = Watchdog()
    works = {**IDLE, "state": "working", "task": {"kind": "train"}}
    told = []
    for now in range(0, 102):
        clock.now = float(now)
        assert dog.reason(None if now % 10 == 9 else 7, {**HOLDING, "alive": now}, works) == ""
        told.append(dog.hangs(8, works, 100.0, beat=now))
    assert told == ["", *[""] * 100, "a task took longer than 1.67 min"]


def test_a_process_that_hangs_on_its_task_is_started_anew(tmp_path: Path) -> None:
    home = ClientHome(folder=tmp_path, site="north", consortium="0" * 32, name="c", server="localhost:1")
    (tmp_path / "state").mkdir()
    SiteConfig(site="north", data="cases", root=tmp_path, train=("p1",), validation=()).save(home.site_config)
    said: list[str] = []
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    children = [
        Child(name, sleep, dict(os.environ), tmp_path / f"{name}.log", tmp_path) for name in (EXECUTOR, SUPERNODE)
    ]
    write_state(home.state(EXECUTOR), {"state": "working", "since": 1.0, "task": {"kind": "train"}})
    keeper = node._Keeper(home, children, said.append, longest_task_s=0.5)
    try:
        for child in children:
            child.tick()
        hung, kept = (child.pid for child in children)
        end = time.monotonic() + 30
        while not any("work" in line for line in said) and time.monotonic() < end:
            keeper.tick()
            time.sleep(0.05)
        for child in children:
            child.tick()
        assert "restarting the work: a task took longer than 0.00833 min" in said
        assert children[0].pid not in (None, hung)
        assert children[1].pid == kept
    finally:
        for child in children:
            child.stop()

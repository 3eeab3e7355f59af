"""Sites that answer what Flower cannot unpack, fail when first asked, or hand a name over; reports after a restart."""

import json
from dataclasses import asdict, replace

import httpx
import numpy as np
import pytest
from flwr.app import Error

from client.app import client_app
from privacy.flower.internals.codes import ErrorCode
from privacy.wire.messages import SITE_STOPS
from server.config.run import RunConfig
from server.record.history import DROP_REASONS
from server.rounds.loop import run_federation
from server.sites.attendance import Members, Register
from server.sites.exchange import _flower_error
from server.sites.patience import call_again
from simulations.engine.faults import Fault, add_faults
from simulations.engine.quadratic import MANIFEST_HASH, SPEC_JSON, QuadraticTraining, run_quadratic, write_sites
from simulations.engine.run import LocalGrid
from tests.builders.run_config import plain_run, rounds_config, train_config

PATIENTS = {"alpha": 5, "beta": 2, "gamma": 9}
FAST = rounds_config(count=4, min_sites=2, deadline_s=20.0, wait_for_sites_s=5.0, attempts=2)
CONFIG = plain_run(rounds=FAST, train=train_config(local_steps=3, lr=0.3))


@pytest.fixture
def nodes(tmp_path):
    return write_sites(tmp_path, PATIENTS)


def run_on(grid: LocalGrid, out, config: RunConfig = CONFIG):
    return run_federation(grid, config, SPEC_JSON, MANIFEST_HASH, np.zeros(64, np.float32), out)


class Unpackable(LocalGrid):
    """As Flower's HTTP grid: replies are taken from the SuperLink one by one, and a broken one raises while it is read.

    Those taken before it in the same pull are gone with the exception.
    """

    def __init__(self, *args, broken: int, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._broken = list(self._contexts)[broken]

    def pull_messages(self, message_ids):
        replies = list(super().pull_messages(message_ids))
        for reply in replies:
            if reply.metadata.src_node_id == self._broken and reply.metadata.message_type == "train":
                raise ValueError("invalid object of Jane Doe")
        return replies


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_an_answer_that_flower_cannot_unpack_drops_its_site_alone(tmp_path, nodes, broken):
    # All have answered before the first pull, so that replies come home together.
    with Unpackable(client_app(QuadraticTraining(64)), nodes, broken=broken, workers=3) as grid:
        result = run_on(grid, tmp_path / "out", replace(CONFIG, rounds=replace(FAST, deadline_s=3.0)))
    name = sorted(PATIENTS)[broken]
    for record in result.history:
        assert [(drop.site, drop.reason) for drop in record.drops] == [(name, "schema")]
        assert set(record.sites) == set(PATIENTS) - {name}
    assert "Jane" not in (tmp_path / "out" / "events.jsonl").read_text()


def test_a_site_whose_description_failed_once_is_asked_again(tmp_path, nodes):
    first = iter([True])

    class Once(Fault):
        def strikes(self, site, kind, round_number):
            return (site, kind) == ("beta", "describe") and next(first, False)

    app = add_faults(client_app(QuadraticTraining(64)), [Once(what="crash", site="beta")])
    result = run_quadratic(tmp_path / "out", CONFIG, nodes, app=app)
    assert set(result.history[-1].sites) == set(PATIENTS)
    assert result.drops == ()


def test_a_name_that_its_node_gave_up_goes_to_the_node_that_asked_for_it(tmp_path, nodes):
    class Replaced(LocalGrid):
        """The hospital made a new key: the new node comes before the SuperLink has noticed that the old one is gone."""

        asked = 0

        def get_node_ids(self):
            self.asked += 1
            everyone = list(super().get_node_ids())
            return everyone if self.asked < 12 else everyone[1:]

    with Replaced(client_app(QuadraticTraining(64)), [nodes[0], *nodes]) as grid:
        result = run_on(grid, tmp_path / "out", replace(CONFIG, rounds=replace(FAST, count=8)))
    assert set(result.history[-1].sites) == set(PATIENTS)


def test_a_restarted_run_still_knows_its_sites_and_drops(tmp_path, nodes):
    whole = run_quadratic(tmp_path / "out", CONFIG, [*nodes, nodes[1]])
    again = run_quadratic(tmp_path / "out", CONFIG, nodes)
    assert again.resumed_from == 4
    assert again.sites == whole.sites == PATIENTS
    assert again.drops == whole.drops
    assert [drop.reason for drop in again.drops] == ["duplicate"]
    assert json.dumps([asdict(r) for r in again.history]) == json.dumps([asdict(r) for r in whole.history])


def test_a_run_that_goes_on_without_a_site_still_reports_it(tmp_path, nodes):
    events = []

    def stop(event):
        events.append(event)
        if event.kind == "round_done" and event.round == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_quadratic(tmp_path / "out", CONFIG, nodes, on_event=stop)
    result = run_quadratic(tmp_path / "out", CONFIG, nodes[:2])
    assert result.resumed_from == 2
    assert result.sites == PATIENTS


def http_error(code: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "https://127.0.0.1/v1/runtime/x")
    return httpx.HTTPStatusError("x", request=request, response=httpx.Response(code, request=request))


class Stumbling(LocalGrid):
    """A SuperLink that answers every second push and node listing with HTTP 500, as SQLite under load makes it do."""

    calls = 0

    def _stumble(self) -> None:
        self.calls += 1
        if self.calls % 2:
            raise http_error(500)

    def push_messages(self, messages):
        self._stumble()
        return super().push_messages(messages)

    def get_node_ids(self):
        self._stumble()
        return super().get_node_ids()


def test_a_stumbling_superlink_changes_nothing(tmp_path, nodes):
    with Stumbling(client_app(QuadraticTraining(64)), nodes, workers=3) as grid:
        result = run_on(grid, tmp_path / "out")
        assert grid.calls > 10
    calm = run_quadratic(tmp_path / "calm", CONFIG, nodes)
    assert result.drops == ()
    assert result.vector.tobytes() == calm.vector.tobytes()


def test_a_refused_call_is_not_tried_again():
    seen = []

    def refuse():
        seen.append(1)
        raise http_error(403)

    with pytest.raises(httpx.HTTPStatusError):
        call_again(refuse, "a call")
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Error(ErrorCode.NODE_UNAVAILABLE, "Jane Doe"), "disconnected"),
        (Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, SITE_STOPS), "stopped"),
        (Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "Jane Doe"), "error"),
        (Error(ErrorCode.MESSAGE_UNAVAILABLE, "Jane Doe"), "timeout"),
        (None, "error"),
    ],
)
def test_flowers_errors_have_names(error, reason):
    told = _flower_error(error)
    assert told[0] == reason in DROP_REASONS
    assert "Jane" not in told[1]


def test_a_site_that_states_the_name_of_another_is_dropped_and_cannot_take_its_place(tmp_path, nodes):
    register = tmp_path / "sites.json"
    with LocalGrid(client_app(QuadraticTraining(64)), nodes) as grid:
        alpha, beta, gamma = sorted(grid.get_node_ids())
        # gamma's node was admitted as delta; whoever holds its key now calls itself gamma.
        known = {"alpha": alpha, "beta": beta, "delta": gamma}
        register.write_text(json.dumps({name: {"node_id": str(node)} for name, node in known.items()}))
        result = run_federation(
            grid,
            CONFIG,
            SPEC_JSON,
            MANIFEST_HASH,
            np.zeros(64, np.float32),
            tmp_path / "out",
            members=Members(register=Register(register)),
        )
    assert set(result.sites) == {"alpha", "beta"}
    assert [(drop.site, drop.reason) for drop in result.drops] == [(f"node-{gamma}", "wrong_name")]
    assert all(set(record.sites) == {"alpha", "beta"} for record in result.history)

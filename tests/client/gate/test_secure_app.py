"""A hospital's whole app under secure aggregation: its own key, policy, plan and ledger decide; kill -9 anywhere."""

import os
import signal
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message
from flwr.clientapp import ClientApp

from client.app import client_app
from client.gate import secure_inputs
from client.gate.secure_site import SITES
from privacy.dp import ledger
from privacy.secagg import replay
from privacy.secagg.context import Cohort
from privacy.trust import identity
from privacy.wire.messages import TrainTask
from server.rounds.result import QuorumError
from server.rounds.secure_aggregation import SecureAggregation, SecureRules
from server.rounds.steps import Link
from server.sites.attendance import ConnectedSite
from shared_model.core.errors import InputError
from simulations.engine.local_grid import LocalGrid
from tests.builders.hospital_homes import CONFIG, MANIFEST, SPEC, Homes, Pulls, terms_with

APP = client_app(Pulls())


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[Homes]:
    yield Homes(tmp_path / "homes")
    SITES.close()


def test_hospitals_under_a_pinned_plan_sum_up_and_pay(homes: Homes, tmp_path: Path) -> None:
    config = replace(CONFIG, rounds=replace(CONFIG.rounds, count=3))
    plan = homes.pin(homes.plan(config))
    homes.change_policy("a", "require_plan: false", "require_plan: true")
    result = homes.run(tmp_path / "out", APP, config, plan)
    assert [list(record.sites) for record in result.history] == [["a", "b", "c"]] * 3
    assert [homes.releases(name) for name in homes.homes] == [3, 3, 3]
    assert len(list((homes.homes["b"].folder / "state" / "secagg_inputs").glob("*.sealed"))) == 3


def refused(homes: Homes, out: Path, words: str, plan: bytes = b"") -> None:
    with pytest.raises(QuorumError, match=words):
        homes.run(out, APP, plan=plan)
    assert [homes.releases(name) for name in homes.homes] == [0, 0, 0]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (
            "modes: [shared]",
            "modes: [none]",
            "b: refused .*modes: this site takes part in none of the modes shared, local",
        ),
        (
            "tasks: [describe, train, evaluate, statistics]",
            "tasks: [describe]",
            "tasks: this site does not answer train",
        ),
        ("least_sites: 2", "least_sites: 4", "secure: this site wants at least 4 sites; the terms have 3"),
        ("require_plan: false", "require_plan: true", "require_plan: this site has accepted no federation plan"),
    ],
)
def test_the_policy_of_one_hospital_has_the_last_word(
    homes: Homes, tmp_path: Path, before: str, after: str, words: str
) -> None:
    homes.change_policy("b", before, after)
    refused(homes, tmp_path / "out", words)


def test_a_hospital_that_has_pinned_another_plan_takes_no_part(homes: Homes, tmp_path: Path) -> None:
    plan = homes.pin(homes.plan())
    homes.pin(homes.plan(stopping="after the second round"), ["c"])
    refused(homes, tmp_path / "out", "c: refused .*not for this site's model", plan)


def test_the_pinned_plans_survivors_are_a_floor(homes: Homes, tmp_path: Path) -> None:
    """A coordinator that asks for the plan's sum with less of them gets no key."""
    more = Homes(tmp_path / "four", ("a", "b", "c", "d"))
    four = replace(CONFIG, privacy=replace(CONFIG.privacy, sites=4), rounds=replace(CONFIG.rounds, min_sites=4))
    plan = more.pin(more.plan(four))
    fewer = replace(four, rounds=replace(four.rounds, min_sites=3))
    with pytest.raises(QuorumError, match="this site wants at least 4 survivors; the terms have 3"):
        more.run(tmp_path / "out", APP, fewer, plan)


def test_a_plan_that_names_a_site_shut_out_since_is_no_plan(homes: Homes, tmp_path: Path) -> None:
    plan = homes.pin(homes.plan())
    home = homes.homes["a"]
    gone = homes.consortium.roster.revoke("c")
    home.roster_file.write_bytes(gone.to_signed(homes.consortium.signer_key))
    refused(homes, tmp_path / "out", "a: refused .*names c with a key that this site's roster .* does not admit", plan)


def test_a_key_whose_passphrase_is_missing_is_the_sites_own_fault(homes: Homes, tmp_path: Path) -> None:
    path = homes.homes["a"].identity_key
    path.write_bytes(path.read_bytes().replace(b"BEGIN PRIVATE", b"BEGIN ENCRYPTED PRIVATE"))
    refused(homes, tmp_path / "out", r"a: refused \(data\)")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"survivors": 4, "sites": 4}, "terms count on sums of 4 sites with 1 colluders"),
        ({"colluders": 2}, "terms count on sums of 3 sites with 2 colluders"),
        ({"bits": 64}, "another ring"),
    ],
)
def test_a_task_whose_noise_counts_on_more_than_the_set_up_gets_nothing(
    homes: Homes, changes: dict[str, int], words: str
) -> None:
    """The coordinator sets up sums of three and then asks for the noise of four: each share would be too small."""
    terms = terms_with()
    with LocalGrid(APP, homes.nodes()) as grid:
        link = Link(grid=grid, run_id="ab" * 16, spec_json=SPEC, manifest_hash=MANIFEST)
        rules = SecureRules(
            threshold=3, least_survivors=3, colluders=1, ring_bits=terms.encoding().bits, deadline_s=20.0
        )
        driver = SecureAggregation(link, Cohort.of(homes.consortium.roster), rules)
        task = TrainTask(
            round=1, rounds=1, local_steps=1, batch_size=1, lr=0.1, seed=0, privacy=terms_with(**changes).to_json()
        )
        sites = [
            ConnectedSite(node=node, name=n, patients=3)
            for node, n in zip(sorted(grid.get_node_ids()), "abc", strict=True)
        ]
        outcome = driver.sum(sites, 8, lambda *_: None, round_number=1, task=task, vector=np.zeros(8, np.float32))
    assert outcome.total is None
    assert all(words in drop.detail for drop in outcome.drops)
    assert [homes.releases(name) for name in homes.homes] == [0, 0, 0]


class _Killer:
    """SIGKILL before, within or after the n-th call of any of its stand-ins for ``os`` that changes the disk."""

    def __init__(self, call: int, when: str) -> None:
        self._left, self._when = call, when

    def __getattr__(self, name: str):  # type: ignore[no-untyped-def]
        real = getattr(os, name)
        if name not in ("open", "write", "fsync", "replace", "ftruncate", "close", "rename", "unlink"):
            return real

        def call(*arguments, **named):  # type: ignore[no-untyped-def]
            self._left -= 1
            if self._left:
                return real(*arguments, **named)
            if name == "write" and self._when == "middle":
                real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            elif self._when == "after":
                real(*arguments, **named)
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError("unreachable")

        return call


def _watched(wire: Path) -> ClientApp:
    """The app, with a note on ``wire``/SITE of each masked release at the moment when it leaves."""

    def answer(message: Message, context) -> Message:  # type: ignore[no-untyped-def]
        reply = APP(message, context)
        if "ring" in reply.content:
            descriptor = os.open(wire / str(reply.content["head"]["site"]), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, b"x")
            os.close(descriptor)
        return reply

    app = ClientApp()
    for register in (app.query(), app.train()):
        register(answer)
    return app


def _round_killed_at(homes: Homes, wire: Path, call: int, when: str) -> bool:
    """One whole round of three hospitals in a process that dies at its ``call``-th change of a disk; did it live?"""
    child = os.fork()
    if child == 0:
        killer = _Killer(call, when)
        for module in (ledger, replay, identity, secure_inputs):
            module.os = killer  # type: ignore[attr-defined]
        try:
            homes.run(wire.parent / "runs" / uuid.uuid4().hex, _watched(wire))
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return not os.WIFSIGNALED(status)


def test_kill_9_at_every_write_of_a_whole_round_never_under_counts(homes: Homes, tmp_path: Path) -> None:
    """On folders that are never cleaned: each process finds what the one before it left, and goes on with it."""
    wire = tmp_path / "wire"
    wire.mkdir()
    rounds, call, lived = 0, 0, 0
    while lived < 2:
        call, when = call + 1, ("before", "middle", "after")[call % 3]
        lived += _round_killed_at(homes, wire, call, when)
        rounds += 1
        for name in homes.homes:
            sent = (wire / name).stat().st_size if (wire / name).exists() else 0
            assert sent <= homes.releases(name) <= rounds
    assert rounds > 60, "every write of the round was struck"
    before = [homes.releases(name) for name in homes.homes]
    homes.run(tmp_path / "at last", APP)
    assert [homes.releases(name) for name in homes.homes] == [count + 1 for count in before]
    path = homes.homes["a"].folder / "ledger" / "ledger.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="ledger was changed"):
        homes.releases("a")

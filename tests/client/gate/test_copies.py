"""Copied and restored homes: a site or a coordinator with an older state is told so, before anything is charged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from client.app import client_app
from client.gate.gates import HospitalGate
from client.gate.spending import Account
from client.site.instance import instance
from client.site.policy import Policy
from privacy.dp.ledger_record import LedgerEntry
from privacy.secagg.context import Cohort
from privacy.wire.messages import Request
from server.record.history import Drop
from server.rounds.loop import run_federation
from server.sites.attendance import Members, Register
from server.sites.dialect import DialectGrid
from shared_model.core.errors import PolicyError
from simulations.engine.run import run_local
from tests.builders.hospital_homes import CONFIG, MANIFEST, SIZE, SPEC, Homes, Pulls, terms_with

RUN = "ab" * 16


def charge(homes: Homes, name: str, number: int) -> None:
    terms = terms_with()
    ledger = Policy.load(homes.homes[name].policy).ledger_in(homes.homes[name].folder)
    ledger.charge(LedgerEntry(purpose="shared", run_id=RUN, round=number, charge=terms.charge(1)))


def asked(**head: str) -> Request:
    return Request(kind="describe", run_id=RUN, spec_json=SPEC, manifest_hash=MANIFEST, **head)


def test_a_copied_home_is_another_instance_and_a_restart_is_not(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "state").mkdir(parents=True)
    first = instance(home)
    assert instance(home) == first
    assert len(first) == 32
    shutil.copytree(home, tmp_path / "copy")
    assert instance(tmp_path / "copy") != first
    assert instance(home) == first


def test_what_is_meant_for_another_instance_is_refused(tmp_path: Path) -> None:
    gate = HospitalGate.of_home(Homes(tmp_path).homes["a"].folder)
    gate.check_copies(asked(), "1" * 32)
    gate.check_copies(asked(instance="1" * 32), "1" * 32)
    with pytest.raises(PolicyError, match=r"instance: .*another node"):
        gate.check_copies(asked(instance="2" * 32), "1" * 32)


def test_an_older_ledger_than_the_coordinator_has_seen_is_refused(tmp_path: Path) -> None:
    """An older copy of a site's home took part at once, with 22 charges instead of 119."""
    homes = Homes(tmp_path)
    charge(homes, "a", 1)
    shutil.copytree(homes.homes["a"].folder / "ledger", tmp_path / "older")
    charge(homes, "a", 2)
    gate = HospitalGate.of_home(homes.homes["a"].folder)
    seen = gate.newest_record()
    charge(homes, "a", 3)  # its answer was lost: the site knows more than the coordinator
    gate.check_copies(asked(ledger=seen), "")
    shutil.rmtree(homes.homes["a"].folder / "ledger")
    shutil.copytree(tmp_path / "older", homes.homes["a"].folder / "ledger")
    with pytest.raises(PolicyError, match=r"ledger: .*older copy"):
        HospitalGate.of_home(homes.homes["a"].folder).check_copies(asked(ledger=seen), "")


def test_a_round_before_the_last_that_was_paid_is_refused(tmp_path: Path) -> None:
    """An older copy of the coordinator's home redid rounds 25.. of a run that had passed 50; every site paid again."""
    from server.config.schedule import train_task

    homes = Homes(tmp_path)
    charge(homes, "a", 50)
    ledger = Policy.load(homes.homes["a"].policy).ledger_in(homes.homes["a"].folder)
    terms = terms_with()

    def account(number: int, run_id: str = RUN) -> Account:
        return Account(ledger=ledger, run_id=run_id, task=train_task(CONFIG, number, terms.to_json()), terms=terms)

    with pytest.raises(PolicyError, match=r"released round 50 .*older than that"):
        account(1).check()
    account(1, "cd" * 16).check()


def federate(homes: Homes, out: Path, file: Path) -> tuple[int, list[Drop]]:
    """Rounds done and drops of a run whose grid remembers ledgers."""
    members = Members(cohort=Cohort.of(homes.consortium.roster))
    register = out.with_suffix(".sites")
    zeros = np.zeros(SIZE, np.float32)

    def run(grid, _):  # type: ignore[no-untyped-def]
        known = {name: {"node_id": str(node)} for name, node in zip(homes.homes, grid.get_node_ids(), strict=True)}
        register.write_text(json.dumps(known))
        dialect = DialectGrid(grid, Register(register), file)
        return run_federation(dialect, CONFIG, SPEC, MANIFEST, zeros, out, None, members)

    result = run_local(client_app(Pulls()), run, homes.nodes(), {})
    assert result is not None
    return result.rounds, list(result.drops)


def test_a_restored_site_is_named_in_the_next_run_and_pays_nothing(tmp_path: Path) -> None:
    homes = Homes(tmp_path / "homes")
    (tmp_path / "state").mkdir()
    file = tmp_path / "state" / "ledgers.json"
    ledger = homes.homes["a"].folder / "ledger"
    shutil.copytree(ledger, tmp_path / "older")
    assert federate(homes, tmp_path / "first", file)[0] == 1
    assert set(json.loads(file.read_text())) == set(homes.homes)
    shutil.rmtree(ledger)
    shutil.copytree(tmp_path / "older", ledger)
    with pytest.raises(Exception, match=r"a: refused \(policy: ledger: .*older copy"):
        federate(homes, tmp_path / "second", file)
    assert [homes.releases(name) for name in homes.homes] == [0, 1, 1]

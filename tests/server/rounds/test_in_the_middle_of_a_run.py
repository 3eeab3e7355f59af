"""What hospitals do while a run is at work: they renew certificates, and one machine serves two federations."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from client.app import client_app
from privacy.trust import certificates, signed
from server.record.events import Event
from tests.builders.hospital_homes import CONFIG, Homes, Pulls

THREE = replace(CONFIG, rounds=replace(CONFIG.rounds, count=3))


def test_a_sites_certificate_is_renewed_during_a_run(tmp_path: Path) -> None:
    """`server renew` and `client join`: another certificate for the same key, and a newer roster."""
    homes = Homes(tmp_path / "homes")
    plan = homes.pin(homes.plan(THREE))

    def renew(event: Event) -> None:
        if (event.kind, event.round) != ("round_done", 1):
            return
        home, consortium = homes.homes["b"], homes.consortium
        key = signed.private_key(home.identity_key.read_bytes()).public_key()
        renewed = certificates.issue_site_certificate(consortium.authority_key, consortium.authority, "b", key)
        consortium.roster = consortium.roster.renew("b", certificates.certificate_fingerprint(renewed))
        home.certificate.write_bytes(renewed)
        home.roster_file.write_bytes(consortium.roster.to_signed(consortium.signer_key))

    version = homes.consortium.roster.version
    result = homes.run(tmp_path / "out", client_app(Pulls()), THREE, plan=plan, on_event=renew)
    assert homes.consortium.roster.version > version
    assert [sorted(record.sites) for record in result.history] == [["a", "b", "c"]] * 3
    assert [record.attempt for record in result.history] == [1, 1, 1]
    assert homes.releases("b") == 3


def test_two_federations_at_work_on_one_machine_do_not_meet(tmp_path: Path) -> None:
    """Sites of the same names under two consortia, at the same time and in one process, each with its own ledger."""
    both = [Homes(tmp_path / name) for name in ("first", "second")]
    plans = [homes.pin(homes.plan(THREE)) for homes in both]

    def run(number: int) -> np.ndarray:
        return both[number].run(tmp_path / f"out{number}", client_app(Pulls()), THREE, plan=plans[number]).vector

    with ThreadPoolExecutor(2) as pool:
        vectors = list(pool.map(run, range(2)))
    assert not np.array_equal(*vectors), "the same noise in two federations"
    assert [homes.releases(name) for homes in both for name in homes.homes] == [3] * 6

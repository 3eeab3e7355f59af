"""Admitted hospitals with real folders in one process, and a coordinator that sums up their noised releases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.app import UserConfig
from flwr.clientapp import ClientApp

from client.app import HOME_KEY, NODE_CONFIG_KEY
from client.site.config import SiteConfig
from client.site.home import ClientHome
from client.site.policy import Policy, default_policy_text
from privacy.agreement.federation_plan import plan_hash
from privacy.dp.terms import PrivacyTerms
from privacy.secagg.context import Cohort
from privacy.trust.membership import AdmissionRequest
from server.config.privacy import run_terms
from server.config.run import RunConfig
from server.rounds.loop import run_federation
from server.rounds.result import FederationResult
from server.sites.attendance import Members
from shared_model.core.files import PRIVATE, PUBLIC, create_file
from shared_model.network.spec import ModelSpec
from simulations.engine.quadratic import QuadraticTraining
from simulations.engine.run import run_local
from tests.builders.consortium import Consortium, Site
from tests.builders.run_config import plain_run, privacy_config, rounds_config, train_config

SIZE = 8
SPEC = ModelSpec(prior="none", adapter="lora").to_json()
MANIFEST = "a" * 64
CONFIG = plain_run(
    rounds=rounds_config(count=1, min_sites=3, attempts=1, evaluate_every=0, deadline_s=20.0, wait_for_sites_s=5.0),
    train=train_config(local_steps=1, batch_size=1, lr=0.5, lr_final_fraction=1.0),
    privacy=privacy_config(mode="shared", z=4.0, clip=10.0, cohort=9, sites=3),
)
POLICY = {
    "require_plan: true": "require_plan: false",
    "known_peers: true": "known_peers: false",
    "max_epsilon: 8.0": "max_epsilon: null",
    "max_epsilon_alone: 60.0": "max_epsilon_alone: null",
}


class Pulls(QuadraticTraining):
    """The quadratic under a specification that a site's limits can read."""

    def __init__(self) -> None:
        super().__init__(SIZE)

    def model(self, spec_json: str) -> tuple[str, int]:
        return MANIFEST, SIZE


class Homes:
    """Hospitals a, b, c... with three patients each, all in the roster that every one of them has."""

    def __init__(self, folder: Path, names: Sequence[str] = ("a", "b", "c")) -> None:
        self.folder, self.consortium = folder, Consortium()
        self.homes = {name: self._made(name) for name in names}
        roster = self.consortium.roster.to_signed(self.consortium.signer_key)
        for home in self.homes.values():
            home.roster_file.write_bytes(roster)

    def _made(self, name: str) -> ClientHome:
        home = ClientHome(folder=self.folder / name, site=name, consortium=self.consortium.id, name="t", server="h:1")
        for part in ("keys", "trust", "state"):
            (home.folder / part).mkdir(parents=True)
        keys = Site()
        create_file(home.identity_key, keys.identity_key, PRIVATE)
        create_file(home.ca_certificate, self.consortium.authority, PUBLIC)
        create_file(home.signer_certificate, self.consortium.signer, PUBLIC)
        record = {"schema": 3, "site": name, "consortium": self.consortium.id, "name": "t", "server": "127.0.0.1:1"}
        (home.folder / "client.json").write_text(json.dumps(record))
        train = ("p1", "p2", "p3")
        SiteConfig(site=name, data="cases", root=home.folder, train=train, validation=("v",)).save(home.site_config)
        policy = default_policy_text()
        for before, after in POLICY.items():
            assert before in policy
            policy = policy.replace(before, after)
        home.policy.write_text(policy)
        Policy.load(home.policy).ledger_in(home.folder).create()
        self.consortium.admission(AdmissionRequest.read(keys.request(self.consortium.invitation(name))))
        return home

    def site(self, name: str) -> SiteConfig:
        """One hospital's configuration."""
        return SiteConfig.load(self.homes[name].site_config)

    def change_policy(self, name: str, before: str, after: str) -> None:
        """Edit one hospital's policy."""
        path = self.homes[name].policy
        assert before in path.read_text()
        path.write_text(path.read_text().replace(before, after))

    def plan(self, config: RunConfig = CONFIG, **changes: object) -> bytes:
        """The signed plan of a run."""
        terms = run_terms(config)
        assert terms is not None
        values = {
            "mode": terms.mode,
            "privacy": {key: value for key, value in terms.to_plain().items() if key != "mode"},
            "sites": self.consortium.roster.identities(),
            "model": SPEC,
            "manifest": MANIFEST,
            "parameters": SIZE,
            "least_sites": config.rounds.min_sites,
            "metrics": (),
            "rounds": config.rounds.count,
        }
        return self.consortium.plan(**{**values, **changes}).to_signed(self.consortium.signer_key)

    def pin(self, content: bytes, names: Sequence[str] = ()) -> bytes:
        """Have hospitals (all, if none is named) pin a plan; its hash."""
        for name in names or self.homes:
            self.homes[name].plan_file.write_bytes(content)
        return bytes.fromhex(plan_hash(content))

    def nodes(self) -> list[UserConfig]:
        """Node configs as the executors of these hospitals give them."""
        return [{NODE_CONFIG_KEY: str(home.site_config), HOME_KEY: str(home.folder)} for home in self.homes.values()]

    def run(
        self, out: Path, app: ClientApp, config: RunConfig = CONFIG, plan: bytes = b"", on_event: object = None
    ) -> FederationResult:
        """Run the federation of these hospitals through their own app."""
        members = Members(cohort=Cohort.of(self.consortium.roster), plan=plan)
        result = run_local(
            app,
            lambda grid, _: run_federation(
                grid,
                config,
                SPEC,
                MANIFEST,
                np.zeros(SIZE, np.float32),
                out,
                on_event,
                members,  # type: ignore[arg-type]
            ),
            self.nodes(),
            {},
        )
        assert result is not None
        return result

    def releases(self, name: str) -> int:
        """Charges in a hospital's ledger, verified."""
        from client.gate.limits import Limits

        ledger = Limits.of_home(self.homes[name]).ledger
        assert ledger is not None
        return len(ledger.entries())


def terms_with(**changes: object) -> PrivacyTerms:
    """The terms of CONFIG, changed."""
    terms = run_terms(CONFIG)
    assert terms is not None
    return replace(terms, **changes)  # type: ignore[arg-type]

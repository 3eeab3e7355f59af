"""Whom a deployment's sums are over: the signed plan's sites where it is this run's, else all that are admitted."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from privacy.agreement.federation_plan import plan_hash
from privacy.dp import accountant
from privacy.dp.accountant import AccountantError
from privacy.trust import certificates
from privacy.trust.roster import Roster
from server.config.compose import compose_run
from server.config.federation_plan import make_plan
from server.config.privacy import run_terms
from server.config.run import RunConfig
from server.consortium.admission import Admissions
from server.consortium.commands import app
from server.consortium.participants import members_of
from server.deployment.home import ServerHome, create
from shared_model.core.errors import InputError
from tests.builders.consortium import Site

SMALL = ["privacy.cohort=60", "privacy.z=4", "rounds.count=2", "model.prior=none"]


def config(*more: str, sites: int = 4) -> RunConfig:
    return compose_run([*SMALL, *more], sites)


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    """A coordinator that has admitted four sites."""
    made = create("cons", tmp_path / "c", "127.0.0.1", 9092, 9093, [])
    save(made, "north", "south", "east", "west")
    return made


def save(home: ServerHome, *names: str) -> Roster:
    roster = Admissions(home).roster()
    for number, name in enumerate(names):
        public = Site().public
        node_key = f"{roster.version}{number}".rjust(64, "0")
        authority, authority_key = home.ca_certificate.read_bytes(), home.ca_key.read_bytes()
        certificate = certificates.issue_site_certificate(authority_key, authority, name, public)
        home.site_certificate(name).parent.mkdir(exist_ok=True)
        home.site_certificate(name).write_bytes(certificate)
        fingerprint = certificates.certificate_fingerprint(certificate)
        key = public.public_bytes_raw().hex()
        roster = roster.admit(name, identity=key, certificate=fingerprint, node_key=node_key)
    home.roster_file.write_bytes(roster.to_signed(home.roster_key.read_bytes()))
    return roster


def sign(home: ServerHome, asked: RunConfig) -> bytes:
    plan = make_plan(Admissions(home).parties(), asked)
    home.plan_file.write_bytes(plan.to_signed(home.roster_key.read_bytes()))
    return bytes.fromhex(plan_hash(home.plan_file.read_bytes()))


def test_without_a_plan_all_admitted_sites_count(home: ServerHome) -> None:
    found = members_of(home, config())
    assert found.cohort is not None
    assert found.cohort.names == ("east", "north", "south", "west")
    assert found.plan == b""
    assert members_of(home, compose_run(["privacy.mode=none"])).cohort is None


def test_the_runs_own_plan_counts_though_the_roster_has_grown(home: ServerHome) -> None:
    digest = sign(home, config())
    save(home, "later")
    found = members_of(home, config())
    assert found.cohort is not None
    assert len(found.cohort) == 4
    assert found.plan == digest


@pytest.mark.parametrize("other", ["name=other", "privacy.z=5", "rounds.count=3", "model.rank=4"])
def test_a_plan_of_another_run_does_not_count(home: ServerHome, other: str) -> None:
    sign(home, config())
    assert members_of(home, config(other)).plan == b""


def test_a_plan_that_names_a_revoked_site_stops_the_run(home: ServerHome) -> None:
    sign(home, config())
    roster = Admissions(home).roster().revoke("south")
    home.roster_file.write_bytes(roster.to_signed(home.roster_key.read_bytes()))
    with pytest.raises(InputError, match="names south, revoked since"):
        members_of(home, config())


def test_a_plan_is_made_for_the_sites_that_are_there(home: ServerHome) -> None:
    with pytest.raises(InputError, match=r"privacy.sites=5: 4 sites are admitted \(east, north"):
        sign(home, config("privacy.sites=5"))


def test_sites_and_quorum_follow_from_the_roster() -> None:
    for sites, fewest in ((3, 3), (4, 3), (5, 4), (10, 9)):
        made = config(sites=sites)
        terms = run_terms(made)
        assert terms is not None
        assert (made.privacy.sites, made.rounds.min_sites, terms.survivors) == (sites, fewest, fewest)
    assert config("privacy.mode=none").rounds.min_sites == 2
    with pytest.raises(InputError, match="expected 3 to 128"):
        config(sites=2)


def test_no_plan_is_signed_while_two_accountants_disagree(home: ServerHome, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["plan", "--home", str(home.folder), *SMALL]
    with monkeypatch.context() as patch:
        patch.setattr(accountant, "epsilon_prv", lambda spent, delta, error: 0.1)
        with pytest.raises(AccountantError, match="two accountants disagree"):
            CliRunner().invoke(app, command, catch_exceptions=False)
    assert not home.plan_file.exists()
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    assert home.plan_file.exists()

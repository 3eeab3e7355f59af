"""A sum that somebody doubts: from the files of coordinator and hospitals, by their commands, to the site at fault."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import client.cli
import server.cli
from client.app import client_app
from client.gate.secure_site import SITES
from privacy.secagg.audit import OpenedInput, SumRecord
from privacy.secagg.context import to_sign
from privacy.secagg.site import MaskingSite, input_commitment
from server.deployment.home import ServerHome, create
from server.rounds.result import QuorumError
from server.runs.index import remember
from tests.builders.hospital_homes import CONFIG, Homes, Pulls
from tests.builders.run_config import privacy_config

LIAR = 2  # hospital c
MASKED = replace(CONFIG, privacy=privacy_config(mode="masked", cohort=9, sites=3))


class Disputed:
    """Three hospitals and a coordinator after one round, and the two commands."""

    def __init__(self, folder: Path, config=CONFIG) -> None:
        self.folder, self.config, self.homes = folder, config, Homes(folder / "sites")
        self.home: ServerHome = create("walk", folder / "home", "127.0.0.1", 9092, 9093, [])
        self.out = self.home.folder / "runs" / "first"
        for name in self.homes.homes:
            self.homes.change_policy(name, "modes: [shared]", f"modes: [{config.privacy.mode}]")
        remember(self.home, "1", config, self.out)

    def run(self) -> None:
        self.homes.run(self.out, client_app(Pulls()), self.config)

    def server(self, *arguments: object) -> Result:
        return self._called(server.cli.app, "dispute", 1, "--home", self.home.folder, *arguments)

    def client(self, name: str, *arguments: object) -> Result:
        where = ("--home", self.homes.homes[name].folder)
        return self._called(client.cli.app, "dispute", self.folder / "signed.json", *where, *arguments)

    def opened(self, *flags: str) -> list[object]:
        """All hospitals' openings, as arguments of either command; what was signed is handed out first."""
        assert self.server("--out", self.folder / "signed.json").exit_code == 0
        told: list[object] = []
        for name in self.homes.homes:
            path = self.folder / f"{name}.opening"
            found = self.client(name, "--open", path, *flags)
            assert "UNMASKED" in found.output, found.output
            told += ["--opening", path]
        return told

    @staticmethod
    def _called(app, *arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def disputed(tmp_path: Path) -> Iterator[Disputed]:
    yield Disputed(tmp_path)
    SITES.close()


def lies(monkeypatch: pytest.MonkeyPatch, more: int, *, hidden: bool) -> None:
    """Hospital c puts in ``more`` steps a number; where it is ``hidden``, it commits to the vector without them."""
    honest = MaskingSite.mask

    def mask(self, vector):
        if self._index != LIAR:
            return honest(self, vector)
        message, masked, opening = honest(self, (vector + more).astype(vector.dtype))
        if not hidden:
            vector += np.array(more).astype(vector.dtype)
            return message, masked, opening
        unsigned = replace(message, commitment=input_commitment(opening.context, LIAR, opening.salt, vector))
        signed = self._identity.sign(to_sign("input", opening.context, unsigned.body_to_sign()))
        return replace(unsigned, signature=signed), masked, opening

    monkeypatch.setattr(MaskingSite, "mask", mask)


def test_honest_openings_fit_and_add_up_to_the_sum(disputed: Disputed) -> None:
    disputed.run()
    openings = disputed.opened()
    assert (disputed.folder / "a.opening").stat().st_mode & 0o777 == 0o600
    found = disputed.server(*openings, "--json")
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert told["sites"] == ["a", "b", "c"]
    assert told["whole"] is True
    assert [one["wrong"] for one in told["openings"]] == ["", "", ""]
    # A site need not take the coordinator's word for it.
    peer = disputed.client("b", *openings[:2], *openings[4:], "--json")
    assert json.loads(peer.stdout)["whole"] is True


def test_a_site_that_sends_another_vector_than_it_committed_to_is_named(
    disputed: Disputed, monkeypatch: pytest.MonkeyPatch
) -> None:
    lies(monkeypatch, 3, hidden=True)
    disputed.run()
    assert disputed.server("--out", disputed.folder / "signed.json").exit_code == 0
    assert "fits what it signed" in disputed.client("a").output
    assert "DOES NOT FIT" in disputed.client("c").output
    found = disputed.server(*disputed.opened())
    assert found.exit_code == 1
    assert "c: DOES NOT FIT: the masked vector that the site signed does not hold" in found.output
    assert "a: fits" in found.output
    assert "b: fits" in found.output


def test_a_sum_that_is_refused_as_too_large_can_be_disputed_and_the_cause_has_the_largest_vector(
    disputed: Disputed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a sum is never used, nobody knows whose fault it was, and this is when people ask."""
    lies(monkeypatch, 1 << 14, hidden=False)
    with pytest.raises(QuorumError, match="norm"):
        disputed.run()
    assert not (disputed.out / "sums").exists()
    told = json.loads(disputed.server(*disputed.opened(), "--json").stdout)
    sizes = {one["site"]: one["rms"] for one in told["openings"]}
    assert sizes["c"] > 3 * max(sizes["a"], sizes["b"])


def test_a_vector_without_noise_is_shown_only_where_a_person_says_so(tmp_path: Path) -> None:
    disputed = Disputed(tmp_path, MASKED)
    disputed.run()
    SITES.close()
    assert disputed.server("--out", tmp_path / "signed.json").exit_code == 0
    refused = disputed.client("a", "--open", tmp_path / "a.opening")
    assert "--without-noise" in str(refused.exception)
    assert not (tmp_path / "a.opening").exists()
    assert json.loads(disputed.server(*disputed.opened("--without-noise"), "--json").stdout)["whole"] is True


def test_what_was_signed_holds_no_vector_no_secret_and_no_share(disputed: Disputed) -> None:
    disputed.run()
    disputed.opened()
    handed = (disputed.folder / "signed.json").read_text()
    for name in disputed.homes.homes:
        opened = OpenedInput.from_bytes((disputed.folder / f"{name}.opening").read_bytes())
        for secret in (opened.opening.salt, opened.opening.seed, opened.opening.mask_key, opened.vector.tobytes()):
            assert secret.hex() not in handed
    assert not any((disputed.out / "signed").glob("*.opening"))


@pytest.mark.parametrize("change", ["model", "round", "advert", "input"])
def test_a_record_that_was_changed_opens_nothing(disputed: Disputed, change: str) -> None:
    """A coordinator could else have a site open one sum while it reads of another, or blame a site for it."""
    disputed.run()
    assert disputed.server("--out", disputed.folder / "signed.json").exit_code == 0
    path = disputed.folder / "signed.json"
    plain = json.loads(path.read_text())
    if change == "model":
        plain["model"] = "00" * 32
    elif change == "round":
        plain["round"] = 2
    else:
        part = plain["adverts" if change == "advert" else "inputs"]
        part["0"] = part["0"][:40] + format(int(part["0"][40], 16) ^ 1, "x") + part["0"][41:]
    path.write_text(json.dumps(plain))
    found = disputed.client("a", "--open", disputed.folder / "a.opening")
    assert found.exit_code != 0
    assert "not signed by a" in str(found.exception)
    assert not (disputed.folder / "a.opening").exists()


def test_a_record_of_other_hospitals_is_not_believed(disputed: Disputed, tmp_path: Path) -> None:
    """Else whoever makes keys of its own could show a site that another one lied."""
    disputed.run()
    other = Disputed(tmp_path / "other")
    SITES.close()
    other.run()
    assert other.server("--out", disputed.folder / "signed.json").exit_code == 0
    found = disputed.client("a")
    assert "other sites or keys" in str(found.exception)
    assert SumRecord.from_json((disputed.folder / "signed.json").read_bytes()).cohort.names == ("a", "b", "c")

"""`client backup` and `client restore`: a moved site goes on, and no older ledger comes back."""

import shutil
from pathlib import Path

import pytest

from client.setup.backup import back_up_site, restore_site
from client.setup.enrol import Data, create
from client.site.home import ClientHome
from client.site.policy import Policy
from privacy.dp.accountant import Charge
from privacy.dp.ledger import SiteLedger
from privacy.dp.ledger_record import LedgerEntry
from shared_model.core.errors import InputError
from tests.builders.consortium import Consortium


@pytest.fixture
def home(tmp_path: Path) -> ClientHome:
    root = tmp_path / "cases"
    root.mkdir()
    for number in range(5):
        (root / f"p{number}.npz").touch()
    invitation = tmp_path / "north.invitation"
    invitation.write_bytes(Consortium().invitation("north").to_json())
    return create(invitation, tmp_path / "north", Data(kind="cases", root=root, site_config=None))


def ledger(home: ClientHome) -> SiteLedger:
    return Policy.load(home.policy).ledger_in(home.folder)


def pay(home: ClientHome, number: int) -> None:
    charge = Charge(z=20.0, z_alone=10.0, q=1.0)
    ledger(home).charge(LedgerEntry(purpose="shared", run_id="0" * 32, round=number, charge=charge))


def test_a_site_is_moved_with_its_keys_and_its_ledger(home: ClientHome, tmp_path: Path) -> None:
    pay(home, 1)
    back_up_site(home, tmp_path / "a.tar", secrets=True)
    shutil.rmtree(home.folder)
    assert restore_site(tmp_path / "a.tar", tmp_path / "elsewhere") == []
    moved = ClientHome.load(tmp_path / "elsewhere")
    assert [entry.round for entry in ledger(moved).entries()] == [1]
    assert moved.identity_key.stat().st_mode & 0o777 == 0o600
    pay(moved, 2)


def test_without_keys_it_says_what_to_put_back(home: ClientHome, tmp_path: Path) -> None:
    keys = {path.name: path.read_bytes() for path in (home.folder / "keys").iterdir()}
    secret = home.secret.read_bytes()
    back_up_site(home, tmp_path / "a.tar")
    assert all(key not in (tmp_path / "a.tar").read_bytes() for key in (*keys.values(), secret))
    assert restore_site(tmp_path / "a.tar", tmp_path / "new") == ["keys/identity", "keys/node"]
    assert ClientHome.load(tmp_path / "new").secret.read_bytes() != secret


def test_an_older_ledger_than_the_one_that_is_still_here_is_refused(home: ClientHome, tmp_path: Path) -> None:
    pay(home, 1)
    back_up_site(home, tmp_path / "a.tar", secrets=True)
    pay(home, 2)
    with pytest.raises(InputError, match="holds 1 more charges") as refused:
        restore_site(tmp_path / "a.tar", tmp_path / "new")
    assert f"--ledger {ledger(home).folder}" in str(refused.value)
    assert not (tmp_path / "new").exists()
    assert restore_site(tmp_path / "a.tar", tmp_path / "new", ledger(home).folder) == []
    assert [entry.round for entry in ledger(ClientHome.load(tmp_path / "new")).entries()] == [1, 2]


def test_another_ledger_is_not_taken_for_a_newer_one(home: ClientHome, tmp_path: Path) -> None:
    pay(home, 1)
    back_up_site(home, tmp_path / "a.tar", secrets=True)
    other = SiteLedger(folder=tmp_path / "other", delta=1e-5)
    with pytest.raises(InputError, match="no privacy ledger"):
        restore_site(tmp_path / "a.tar", tmp_path / "new", other.folder)
    other.create()
    with pytest.raises(InputError, match="not a newer copy"):
        restore_site(tmp_path / "a.tar", tmp_path / "new", other.folder)
    assert not (tmp_path / "new").exists()

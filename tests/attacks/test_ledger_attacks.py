"""A ledger that is deleted, restored from an older copy, used twice or replaced by a second home's."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from client.app import client_app
from client.gate.gates import HospitalGate
from client.gate.secure_site import SITES
from client.setup.enrol import Data, create
from client.site import ledger_binding
from client.site.budget import make_site_ledger
from client.site.ledger_binding import MARK, bind, bound_ledger
from client.site.policy import Policy
from privacy.dp.ledger import SiteLedger
from privacy.secagg.heads import PeerHeads, follows
from shared_model.core.errors import InputError
from tests.builders.consortium import Consortium
from tests.builders.hospital_homes import CONFIG, Homes, Pulls, terms_with

APP = client_app(Pulls())
FIVE = replace(
    CONFIG,
    privacy=replace(CONFIG.privacy, sites=5),
    rounds=replace(CONFIG.rounds, min_sites=4, attempts=2),
)


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[Homes]:
    yield Homes(tmp_path / "homes", ("a", "b", "c", "d", "e"))
    SITES.close()


def ledger_of(homes: Homes, name: str) -> Path:
    return homes.homes[name].folder / "ledger"


def test_deleting_records_and_head_gives_no_new_budget(homes: Homes, tmp_path: Path) -> None:
    homes.run(tmp_path / "first", APP, FIVE)
    for file in ("ledger.jsonl", "head.json"):
        (ledger_of(homes, "a") / file).unlink()
    result = homes.run(tmp_path / "second", APP, FIVE)
    assert [list(record.sites) for record in result.history] == [["b", "c", "d", "e"]]


def test_a_ledger_that_was_rolled_back_is_seen_by_its_peers(homes: Homes, tmp_path: Path) -> None:
    """A virtual machine is restored: the home is whole and consistent, and remembers less than its peers do."""
    homes.run(tmp_path / "first", APP, FIVE)
    shutil.copytree(ledger_of(homes, "a"), tmp_path / "snapshot")
    homes.run(tmp_path / "second", APP, FIVE)
    shutil.rmtree(ledger_of(homes, "a"))
    shutil.copytree(tmp_path / "snapshot", ledger_of(homes, "a"))
    assert homes.releases("a") == 1
    result = homes.run(tmp_path / "third", APP, FIVE)
    assert [list(record.sites) for record in result.history] == [["b", "c", "d", "e"]]
    assert any(drop.site == "a" and "signed" in drop.detail for drop in result.history[0].drops)
    assert homes.releases("a") == 1


def test_two_live_copies_of_a_home_do_not_both_take_part(homes: Homes, tmp_path: Path) -> None:
    """Two machines run one home. Each charges its own copy; peers let the first one go on, and the second not."""
    homes.run(tmp_path / "first", APP, FIVE)
    shutil.copytree(ledger_of(homes, "a"), tmp_path / "copy")
    homes.run(tmp_path / "second", APP, FIVE)
    shutil.move(ledger_of(homes, "a"), tmp_path / "original")
    shutil.move(tmp_path / "copy", ledger_of(homes, "a"))  # now the copy speaks
    ledger = Policy.load(homes.homes["a"].policy).ledger_in(homes.homes["a"].folder)
    for _ in range(2):  # it has shown itself elsewhere: neither its number nor its count of charges falls
        ledger.show()
    result = homes.run(tmp_path / "third", APP, FIVE)
    assert [list(record.sites) for record in result.history] == [["b", "c", "d", "e"]]


def test_heads_follow_one_another_or_are_refused(tmp_path: Path) -> None:
    ledger = SiteLedger(folder=tmp_path / "ledger", delta=1e-5)
    ledger.create()
    first = ledger.show()
    shutil.copytree(ledger.folder, tmp_path / "copy")
    copy = SiteLedger(folder=tmp_path / "copy", delta=1e-5)
    second, fork = ledger.show(), copy.show()
    third, later = ledger.show(), copy.show()
    assert follows(None, None)
    assert follows(None, first)
    assert follows(first, second)
    assert follows(first, third)  # a showing was missed
    assert not follows(second, fork)  # a number that was used
    assert not follows(second, later)  # the next number, from another showing
    assert not follows(second, first)
    assert not follows(first, None)  # a ledger that is gone
    assert not follows(replace(first, records=5), replace(third, records=4))


def test_what_peers_have_shown_outlives_the_process(homes: Homes, tmp_path: Path) -> None:
    homes.run(tmp_path / "first", APP, FIVE)
    path = homes.homes["b"].folder / "state" / "peer_heads.json"
    assert len(PeerHeads(path)._read()) == 4
    path.write_text("{}x")
    with pytest.raises(InputError, match="it says what peers have shown"):
        PeerHeads(path)._read()


def made(folder: Path, consortium: Consortium, name: str, root: Path) -> Path:
    path = folder / f"{name}.invitation"
    path.write_bytes(consortium.invitation(name).to_json())
    return create(path, folder / name, Data(kind="cases", root=root, site_config=None)).folder


def test_re_enrolment_finds_the_ledger_of_the_same_patients(tmp_path: Path) -> None:
    """A hospital that joins again, in this consortium or another, does not begin with a new budget."""
    root = tmp_path / "cases"
    root.mkdir()
    for number in range(5):
        (root / f"p{number}.npz").touch()
    first = made(tmp_path, Consortium(), "north", root)
    second = made(tmp_path, Consortium(), "again", root)
    assert Policy.load(second / "policy.yaml").ledger == (first / "ledger").resolve()
    assert not (second / "ledger").exists()
    assert bound_ledger(root) is not None


def test_a_ledger_made_anew_does_not_count_for_patients_of_another(homes: Homes, tmp_path: Path) -> None:
    homes.run(tmp_path / "first", APP, FIVE)
    home = homes.homes["a"]
    shutil.rmtree(ledger_of(homes, "a"))
    with pytest.raises(InputError, match=r"counted in another privacy ledger, which lay in .*ledger"):
        make_site_ledger(home)
    Policy.load(home.policy).ledger_in(home.folder).create()  # by hand, with the mark still there
    with pytest.raises(InputError, match="counted in another privacy ledger"):
        HospitalGate.of_home(home.folder).ledger(terms_with())


def test_data_that_cannot_be_written_to_is_bound_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    root = tmp_path / "cases"
    root.mkdir()
    one, two = (SiteLedger(folder=tmp_path / name, delta=1e-5) for name in ("one", "two"))
    one.create()
    two.create()

    def refuse(path: Path, *rest: object, **more: object) -> None:
        if path.parent == root:
            raise ledger_binding.StorageError(path, OSError(30, "Read-only file system"))
        write(path, *rest, **more)  # type: ignore[arg-type]

    write = ledger_binding.write_json
    monkeypatch.setattr(ledger_binding, "write_json", refuse)
    bind(root, one)
    bind(root, one)
    assert not (root / MARK).exists()
    with pytest.raises(InputError, match="another privacy ledger"):
        bind(root, two)

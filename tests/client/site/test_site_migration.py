"""A site's folder that an earlier version wrote is brought up to this one, with a copy of what changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.setup.upgrade import check_upgrade
from client.site.home import SCHEMA, ClientHome
from client.site.migration import upgrade_site
from client.site.policy import Policy
from privacy.dp.ledger import SiteLedger
from privacy.flower.processes import sole_instance
from shared_model.core.errors import InputError

KEPT = Path(__file__).parents[2] / "older_homes" / "site_schema_2"


@pytest.fixture
def older(tmp_path: Path) -> Path:
    folder = tmp_path / "north"
    shutil.copytree(KEPT, folder)
    for name in ("state", "keys"):
        (folder / name).mkdir()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ledger(folder: Path) -> SiteLedger:
    return Policy.load(folder / "policy.yaml").ledger_in(folder)


def test_an_older_folder_is_refused_with_the_command_that_brings_it_up(older: Path) -> None:
    with pytest.raises(InputError, match=r"schema: 2 is of an earlier version; `client upgrade --home .*north`"):
        ClientHome.load(older)


def test_an_older_folder_is_brought_up_and_its_charges_stay(older: Path) -> None:
    before = contents(older)
    said = upgrade_site(older)
    home = ClientHome.load(older)
    assert (home.site, home.server) == ("north", "127.0.0.1:39092")
    assert [entry.round for entry in ledger(older).entries()] == [1, 2, 3]
    assert len(ledger(older).id) == 32
    assert Policy.load(home.policy).known_peers is True
    assert Policy.load(home.policy).max_epsilon == 8.0
    kept = contents(older / "before_schema_3")
    assert kept == {name: before[name] for name in ("client.json", "policy.yaml", "ledger/head.json")}
    assert any("before_schema_3" in line for line in said)
    assert upgrade_site(older) == []


def test_a_migration_that_was_killed_goes_on_and_keeps_the_first_copy(
    older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(older)
    with monkeypatch.context() as patch:
        patch.setattr(SiteLedger, "give_id", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            upgrade_site(older)
    assert json.loads((older / "client.json").read_text())["schema"] == 2
    upgrade_site(older)
    assert ClientHome.load(older)
    assert (older / "before_schema_3" / "policy.yaml").read_bytes() == before["policy.yaml"]
    assert (older / "policy.yaml").read_text().count("known_peers: true") == 1


def test_a_ledger_elsewhere_is_brought_up_once_and_kept_too(older: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "ledger"
    (older / "ledger").rename(elsewhere)
    policy = older / "policy.yaml"
    policy.write_text(policy.read_text().replace("\nledger: null\n", f"\nledger: {elsewhere}\n"))
    shutil.copytree(older, tmp_path / "second")
    head = (elsewhere / "head.json").read_bytes()
    upgrade_site(older)
    name = ledger(older).id
    upgrade_site(tmp_path / "second")
    assert ledger(tmp_path / "second").id == name
    kept = older / "before_schema_3" / "elsewhere" / Path(*elsewhere.parts[1:]) / "head.json"
    assert kept.read_bytes() == head


@pytest.mark.parametrize("how", ["edited", "cut"])
def test_an_older_ledger_that_was_changed_gets_no_id(older: Path, how: str) -> None:
    records = older / "ledger" / "ledger.jsonl"
    content = records.read_bytes()
    edited = content.replace(b'"round":2', b'"round":9')
    records.write_bytes(edited if how == "edited" else b"".join(content.splitlines(keepends=True)[:1]))
    with pytest.raises(InputError, match="ledger was changed"):
        upgrade_site(older)
    assert "id" not in json.loads((older / "ledger" / "head.json").read_text())


def test_a_ledger_without_a_charge_is_brought_up(older: Path) -> None:
    """Those versions wrote the head with the first charge."""
    for name in ("head.json", "ledger.jsonl"):
        (older / "ledger" / name).unlink()
    upgrade_site(older)
    assert ledger(older).entries() == []


def test_no_folder_is_brought_up_while_its_site_runs(older: Path) -> None:
    before = contents(older)
    with sole_instance(older / "state" / "start.lock", "x"), pytest.raises(InputError, match="already running"):
        upgrade_site(older)
    assert contents(older) == {**before, "state/start.lock": b""}


@pytest.mark.parametrize(
    ("schema", "says"), [(SCHEMA + 1, "newer version"), (1, "expected 3, found 1"), (True, "found")]
)
def test_a_folder_that_cannot_be_brought_up_says_why_and_stays(older: Path, schema: object, says: str) -> None:
    record = json.loads((older / "client.json").read_text())
    (older / "client.json").write_text(json.dumps({**record, "schema": schema}))
    before = contents(older)
    assert upgrade_site(older) == []
    with pytest.raises(InputError, match=says):
        ClientHome.load(older)
    assert contents(older) == {**before, "state/start.lock": b""}


def test_client_start_brings_an_older_folder_up_by_itself(older: Path) -> None:
    done = CliRunner().invoke(app, ["start", "--home", str(older)])
    assert "client.json: schema 3" in done.stdout
    assert json.loads((older / "client.json").read_text())["schema"] == SCHEMA


def test_client_upgrade_says_what_it_did_and_that_there_is_nothing_to_do(older: Path) -> None:
    first, second = (CliRunner().invoke(app, ["upgrade", "--home", str(older)]) for _ in range(2))
    assert "privacy ledger: has an id now" in first.stdout
    assert "nothing was changed" in second.stdout


def test_upgrade_check_says_what_the_upgrade_will_change_and_changes_nothing(older: Path) -> None:
    before = contents(older)
    report = check_upgrade(older)
    assert contents(older) == before
    assert any("schema 2" in note and "client upgrade" in note for note in report.notes)
    assert not any("policy" in line or "ledger" in line for line in report.problems)
    policy = older / "policy.yaml"
    policy.write_text(policy.read_text().replace("max_rounds: 1000", "max_rounds: many"))
    assert any(line.startswith("policy.yaml") for line in check_upgrade(older).problems)

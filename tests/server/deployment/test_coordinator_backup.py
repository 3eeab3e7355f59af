"""`server backup` and `server restore`: without keys unless asked, and usable in another place."""

from pathlib import Path

import pytest

from server.deployment.backup import back_up_coordinator, restore_coordinator
from server.deployment.home import ServerHome, create
from shared_model.core.errors import InputError
from shared_model.core.files import write_text


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    made = create("cons", tmp_path / "c", "127.0.0.1", 9092, 9093, [])
    write_text(made.folder / "runs" / "first" / "federation.json", "{}")
    write_text(made.folder / "state" / "runs.json", "{}")
    write_text(made.folder / "state" / "superlink.db", "flower's own")
    write_text(made.folder / "state" / "start.json", "{}")
    return made


def test_a_coordinator_comes_back_in_another_place(home: ServerHome, tmp_path: Path) -> None:
    back_up_coordinator(home, tmp_path / "a.tar", secrets=True)
    assert restore_coordinator(tmp_path / "a.tar", tmp_path / "new") == []
    new = ServerHome.load(tmp_path / "new")
    assert (new.name, new.address) == (home.name, home.address)
    assert (new.folder / "runs/first/federation.json").read_text() == "{}"
    assert not (new.folder / "state/superlink.db").exists()
    assert not new.state_file.exists()
    connection = (new.folder / "flwr/control/config.toml").read_text()
    assert str(new.folder) in connection
    assert str(home.folder) not in connection


def test_without_keys_it_says_which_to_put_back(home: ServerHome, tmp_path: Path) -> None:
    back_up_coordinator(home, tmp_path / "a.tar")
    content = (tmp_path / "a.tar").read_bytes()
    private = [home.ca_key, home.roster_key, home.tls_key, home.secret("control"), home.secret("superexec")]
    assert all(path.read_bytes() not in content for path in private)
    assert (home.folder / "ca" / "log.key").read_bytes() not in content
    lost = ["ca/ca.key", "ca/log.key", "ca/roster.key", "tls/server.key"]
    assert restore_coordinator(tmp_path / "a.tar", tmp_path / "new") == lost
    assert ServerHome.load(tmp_path / "new").secret("control").read_bytes() != home.secret("control").read_bytes()


def test_an_existing_coordinator_is_left_alone(home: ServerHome, tmp_path: Path) -> None:
    back_up_coordinator(home, tmp_path / "a.tar", secrets=True)
    with pytest.raises(InputError, match="not empty"):
        restore_coordinator(tmp_path / "a.tar", home.folder)

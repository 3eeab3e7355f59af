"""`server init`: what it writes, and that it never writes over anything."""

import stat
import tomllib
from pathlib import Path

import pytest

from server.deployment.home import ServerHome, create
from shared_model.core.errors import InputError


def test_init_makes_a_home_that_loads_and_keeps_secrets_private(tmp_path: Path) -> None:
    made = create("cons", tmp_path / "c", "127.0.0.1", 9092, 9093, [])
    assert ServerHome.load(tmp_path / "c") == made
    secret = made.secret("control").read_text()
    holders = [path for path in made.folder.rglob("*") if path.is_file() and secret in path.read_text()]
    assert len(holders) == 2
    private = [*holders, made.ca_key, made.roster_key, made.folder / "tls/server.key", made.secret("superexec")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    connection = tomllib.loads((made.folder / "flwr/control/config.toml").read_text())["superlink"]["coordinator"]
    assert connection["address"] == f"coordinator:{secret}@127.0.0.1:9093"


@pytest.mark.parametrize(
    ("host", "port", "control", "named"),
    [
        ("127.0.0.1", 0, 9093, "--port"),
        ("127.0.0.1", 9092, 70000, "--control-port"),
        ("127.0.0.1", 9092, 9092, "--control-port"),
        ("0.0.0.0", 9092, 9093, "--address"),
        ("not a host", 9092, 9093, "host"),
    ],
)
def test_bad_input_writes_nothing(tmp_path: Path, host: str, port: int, control: int, named: str) -> None:
    with pytest.raises(InputError, match=named):
        create("cons", tmp_path / "c", host, port, control, [])
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "x" * 65])
def test_a_name_that_is_none_writes_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="NAME"):
        create(name, tmp_path / "c", "127.0.0.1", 9092, 9093, [])
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("host", "addresses", "address"),
    [
        ("127.0.0.1", [], "127.0.0.1:9092"),
        ("0.0.0.0", ["fed.example.org", "10.0.0.1"], "fed.example.org:9092"),
        ("::1", [], "[::1]:9092"),
    ],
)
def test_sites_are_sent_to_the_first_address(tmp_path: Path, host: str, addresses: list[str], address: str) -> None:
    assert create("cons", tmp_path / "c", host, 9092, 9093, addresses).address == address


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    with pytest.raises(InputError, match="not empty"):
        create("cons", tmp_path, "127.0.0.1", 9092, 9093, [])
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_damaged_home_names_file_and_key(tmp_path: Path) -> None:
    made = create("cons", tmp_path / "c", "127.0.0.1", 9092, 9093, [])
    path = made.folder / "server.json"
    text = path.read_text()
    for change, named in (
        ((": 9092", ': "9092"'), "port"),
        (('"host"', '"hosts"'), "host"),
        (('"schema": 3', '"schema": 4'), "schema"),
    ):
        path.write_text(text.replace(*change))
        with pytest.raises(InputError, match=named):
            ServerHome.load(made.folder)
    with pytest.raises(InputError, match="server init"):
        ServerHome.load(tmp_path / "elsewhere")

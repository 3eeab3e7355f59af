"""`client init`: the site's own key, and that bad input writes nothing."""

import stat
from pathlib import Path

import pytest

from client.home import ClientHome, check_address, create
from client.site import SiteConfig
from privacy import identity
from shared_model.errors import InputError


@pytest.fixture
def site_config(tmp_path: Path) -> Path:
    site = SiteConfig(site="alpha", data="cases", root=tmp_path / "data", train=("a1",), validation=("a2",))
    site.save(tmp_path / "site.yaml")
    return tmp_path / "site.yaml"


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    path = tmp_path / "ca.crt"
    path.write_bytes(identity.new_authority("test")[1])
    return path


def test_init_makes_a_key_of_its_own(tmp_path: Path, site_config: Path, ca: Path) -> None:
    made, public_key = create(tmp_path / "s", "coordinator.example.org:9092", ca, site_config)
    assert ClientHome.load(tmp_path / "s") == made
    assert public_key.name == "alpha.pub"
    assert identity.read_node_public_key(public_key)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (made.node_key, made.secret)} == {0o600}
    with pytest.raises(InputError, match="not empty"):
        create(tmp_path / "s", "coordinator.example.org:9092", ca, site_config)


@pytest.mark.parametrize("what", ["server", "ca", "site"])
def test_bad_input_writes_nothing(tmp_path: Path, site_config: Path, ca: Path, what: str) -> None:
    if what == "ca":
        ca.write_bytes(b"rubbish")
    if what == "site":
        site_config.write_text("site: alpha\n")
    server = "https://host:1" if what == "server" else "host:1"
    with pytest.raises(InputError):
        create(tmp_path / "s", server, ca, site_config)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "server", ["host", "host:", "host:0", "host:65536", "u:p@host:1", "https://h:1", "h:1/x", "h :1", ""]
)
def test_addresses_that_are_none(server: str) -> None:
    with pytest.raises(InputError):
        check_address(server)


def test_addresses_that_are() -> None:
    for server in ("10.0.0.1:9092", "coordinator.example.org:443", "[::1]:9092"):
        assert check_address(server) == server

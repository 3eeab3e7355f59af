"""client.json: strict keys, and a clear line for everything that is wrong."""

from pathlib import Path

import pytest

from client.site.home import ClientHome
from shared_model.core.errors import InputError


def made(folder: Path) -> ClientHome:
    home = ClientHome(folder=folder.resolve(), site="north", consortium="0" * 32, name="cons", server="10.0.0.1:9092")
    home.save()
    return home


def test_a_home_that_was_saved_loads(tmp_path: Path) -> None:
    home = made(tmp_path)
    assert ClientHome.load(tmp_path) == home
    with pytest.raises(InputError, match="exists already"):
        made(tmp_path)


def test_no_home_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="client join LINK"):
        ClientHome.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (('"schema": 3', '"schema": 1'), "schema"),
        (("north", "no/rth"), "site"),
        (('"site"', '"sight"'), "site"),
        (('"name"', '"name": "x", "extra"'), "field"),
        (("10.0.0.1:9092", "https://10.0.0.1"), "HOST:PORT"),
        (('"10.0.0.1:9092"', "7"), "HOST:PORT"),
        (("0" * 32, "0" * 31), "consortium"),
        (("{", "{{"), "JSON"),
    ],
)
def test_a_damaged_home_names_file_and_key(tmp_path: Path, change: tuple[str, str], named: str) -> None:
    made(tmp_path)
    path = tmp_path / "client.json"
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(InputError, match=named) as caught:
        ClientHome.load(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")

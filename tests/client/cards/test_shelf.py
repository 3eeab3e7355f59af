"""Where cards are kept: no name leads out of the folder, and nothing is ever overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.cards import shelf
from client.cards.shelf import find_card, save_card, shelved_cards
from client.site.home import ClientHome
from shared_model.bundled import SCORECARDS
from shared_model.core.errors import InputError
from tests.builders.small_card import CARD


@pytest.fixture
def home(tmp_path: Path) -> ClientHome:
    return ClientHome(folder=tmp_path, site="north", consortium="c", name="n", server="h:1")


def test_the_sites_own_come_first_then_the_one_in_use_then_the_packages(home: ClientHome) -> None:
    package = [("bundled", path.stem) for path in sorted(SCORECARDS.glob("*.yaml"))]
    assert [(card.place, card.name) for card in shelved_cards(home)] == package
    path = save_card(home, "ours", CARD)
    home.scorecard.write_text(CARD)
    found = shelved_cards(home)
    assert [(card.place, card.name) for card in found] == [("own", "ours"), ("used", "scorecard"), *package]
    assert find_card(home, "ours").path == path == home.folder / "scorecards" / "ours.yaml"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_what_a_card_was_before_is_kept_beside_it(home: ClientHome) -> None:
    texts = [CARD.replace("1.0", version) for version in ("1.0", "1.1", "1.2")]
    for text in texts:
        path = save_card(home, "ours", text)
    beside = [path.with_name(f"ours.{n}.yaml") for n in (1, 2)]
    assert [each.read_text() for each in (*beside, path)] == texts
    assert all(each.stat().st_mode & 0o777 == 0o600 for each in beside)
    assert [card.name for card in shelved_cards(home) if card.place == "own"] == ["ours"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/tmp/x", "a/b", "a.b", "ours.1", ".hidden", "a b", "x" * 65, "a\n", "ü", "a\x00"]
)
def test_a_name_that_is_not_plain_is_refused(home: ClientHome, name: str) -> None:
    with pytest.raises(InputError, match="name: expected"):
        save_card(home, name, CARD)
    with pytest.raises(InputError, match="there is no scorecard"):
        find_card(home, name)
    assert list(home.folder.iterdir()) == []


def test_a_card_of_the_package_stays_as_it_is(home: ClientHome) -> None:
    before = (SCORECARDS / "lung.yaml").read_bytes()
    with pytest.raises(InputError, match="lung comes with the package"):
        save_card(home, "lung", CARD)
    assert (SCORECARDS / "lung.yaml").read_bytes() == before
    assert not home.scorecards.exists()


def test_a_wrong_card_changes_nothing(home: ClientHome) -> None:
    path = save_card(home, "ours", CARD)
    with pytest.raises(InputError, match=r"ours.yaml:\d+: metrics\[1\].weight"):
        save_card(home, "ours", CARD.replace("weight: 2", "weight: two"))
    assert path.read_text() == CARD
    assert len(list(home.scorecards.iterdir())) == 1


def test_there_are_not_more_cards_than_a_person_keeps(home: ClientHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "MOST_CARDS", 2)
    for name in ("a", "b"):
        save_card(home, name, CARD)
    with pytest.raises(InputError, match="holds 2 scorecards"):
        save_card(home, "c", CARD)
    save_card(home, "b", CARD)

"""`client card`: list, show, save, score, as the page does it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cards.preview import preview
from client.cli import app
from client.site.home import ClientHome
from shared_model.core.errors import InputError
from shared_model.scoring.scorecard_read import parse_scorecard
from tests.builders.card_home import card_home
from tests.builders.small_card import CARD


@pytest.fixture
def home(tmp_path: Path) -> ClientHome:
    (tmp_path / "card.yaml").write_text(CARD)
    return card_home(tmp_path)


def card(home: ClientHome, *arguments: str, given: str = "") -> str:
    """What the command prints; its error is raised."""
    done = CliRunner().invoke(app, ["card", *arguments, "--home", str(home.folder)], input=given)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


def test_a_saved_card_is_listed_shown_and_scored(home: ClientHome, tmp_path: Path) -> None:
    path = card(home, "save", str(tmp_path / "card.yaml"), "ours").strip()
    assert Path(path).read_text() == CARD
    listed = json.loads(card(home, "list", "--json"))
    assert listed[0] == {"place": "own", "name": "ours", "path": path}
    assert card(home, "list").split()[:2] == ["own", "ours"]
    assert parse_scorecard(card(home, "show", "ours")).criteria == parse_scorecard(CARD).criteria
    record = preview(home, parse_scorecard(CARD))
    for what, given in (("ours", ""), (path, ""), ("-", CARD)):
        assert json.loads(card(home, "score", what, "--json", given=given)) == record
    told = card(home, "score", "ours")
    assert f"score {record['score']:.2f}" in told
    assert "no plan has it" in told
    assert f"{record['plans']} plans, 0 left out, 0 not read yet" in told
    assert json.loads(card(home, "score", "ours", "--plans", "2", "--json"))["plans"] == 2
    assert json.loads(card(home, "score", "ours", "--again", "--seconds", "60", "--json")) == record


def test_what_is_wrong_is_named(home: ClientHome, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text(CARD.replace("weight: 2", "weight: two"))
    with pytest.raises(InputError, match=r"wrong.yaml:\d+: metrics\[1\].weight"):
        card(home, "save", str(tmp_path / "wrong.yaml"), "ours")
    with pytest.raises(InputError, match="lung comes with the package"):
        card(home, "save", str(tmp_path / "card.yaml"), "lung")
    with pytest.raises(InputError, match="there is no scorecard of this name"):
        card(home, "show", "../site")
    with pytest.raises(InputError, match=r"standard input:\d+: metrics"):
        card(home, "score", "-", given=CARD.replace("Larynx", "Gizzard"))
    with pytest.raises(InputError, match="at most 1000000 bytes"):
        card(home, "score", "-", given="#" * 1_000_001)

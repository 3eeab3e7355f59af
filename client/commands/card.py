"""The commands `client card ...`: the site's scorecards by name, and what its own plans score under one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from client.cards.form import CardForm
from client.cards.shelf import find_card, save_card, shelved_cards
from client.site.home import ClientHome
from shared_model.core.errors import InputError
from shared_model.core.located import MAX_BYTES
from shared_model.scoring.scorecard import Scorecard
from shared_model.scoring.scorecard_read import parse_scorecard, read_scorecard

app = typer.Typer(name="card", help="The site's scorecards, and what its own plans score.", no_args_is_help=True)

Home = Annotated[Path, typer.Option("--home", help="The site's folder, made by `client init`.")]
Card = Annotated[str, typer.Argument(help="A scorecard's name, a file, or - for YAML on standard input.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")]


@app.command("list")
def list_cards(home_folder: Home, as_json: AsJson = False) -> None:
    """List the scorecards that the site has: its own, the one in use, and the package's."""
    cards = shelved_cards(ClientHome.load(home_folder))
    if as_json:
        print(json.dumps([{"place": card.place, "name": card.name, "path": str(card.path)} for card in cards]))
        return
    for card in cards:
        print(f"{card.place:8} {card.name:24} {card.path}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A scorecard's name, as `client card list` prints it.")],
    home_folder: Home,
) -> None:
    """Print a scorecard as YAML, of the newest version of the format and without comments, once it is checked."""
    card = find_card(ClientHome.load(home_folder), name)
    print(CardForm.read(card.path).checked()[0], end="")


@app.command()
def save(
    file: Annotated[Path, typer.Argument(help="A scorecard (YAML).")],
    name: Annotated[str, typer.Argument(help="Its new name among the site's own.")],
    home_folder: Home,
) -> None:
    """Check a scorecard and keep it among the site's own. An earlier one of that name is kept beside it."""
    read_scorecard(file)  # names the wrong line of the file itself
    print(save_card(ClientHome.load(home_folder), name, file.read_text(encoding="utf-8-sig")))


@app.command()
def score(
    card: Card,
    home_folder: Home,
    plans: Annotated[int, typer.Option(min=1, max=200, help="At most so many plans.")] = 20,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Begin to read no further plan after this time; call again to go on.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Read the plans' files again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Score the site's own reference plans by a scorecard; held-back patients first. Nothing is learned or sent."""
    home = ClientHome.load(home_folder)
    read = _read(home, card)
    from client.cards.preview import preview  # torch

    record = preview(home, read, plans, float("inf") if seconds is None else seconds, again=again)
    print(json.dumps(record) if as_json else _screen(record))


def _read(home: ClientHome, card: str) -> Scorecard:
    if card == "-":
        text = sys.stdin.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise InputError(f"standard input: expected a scorecard of at most {MAX_BYTES} bytes")
        return parse_scorecard(text, "standard input")
    return read_scorecard(Path(card) if Path(card).is_file() else find_card(home, card).path)


def _screen(record: dict[str, Any]) -> str:
    lines = []
    for one in record["criteria"]:
        own = one.get("reference")
        told = f"{own['value']:8.2f} {one['unit']:5} {own['points']:6.2f}" if own else f"{'no plan has it':21}"
        of = f"of {one['weight']:g} points, fails in {one['failed']} of {one['patients']}"
        lines.append(f"{told} {of}: {one['id']} ({one['criterion']})")
    most = record["most_failed"]
    if most:
        lines.append(f"most plans fail: {', '.join(most['ids'])} ({most['plans']})")
    lines.append(f"{record['plans']} plans, {record['left_out']} left out, {record['waiting']} not read yet")
    lines.append("score: none" if record["score"] is None else f"score {record['score']:.2f}")
    return "\n".join(lines)

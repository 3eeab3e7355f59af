"""Which scorecards a site has, by name. Loads no torch.

```
HOME/scorecards/NAME.yaml      saved here by people of the site (0600)
HOME/scorecards/NAME.1.yaml    what it was before it was saved again, oldest first: nothing is ever overwritten
HOME/scorecard.yaml            the one in use: what `client adopt` aligns to. Put there by hand
```

The package's own cards are in shared_model/bundled/scorecards and are only read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from client.site.home import ClientHome
from shared_model.bundled import SCORECARDS
from shared_model.core.errors import InputError
from shared_model.core.files import PRIVATE, create_file, write_text
from shared_model.scoring.scorecard_read import parse_scorecard

OWN, USED, BUNDLED = "own", "used", "bundled"
# No separators and no dots: a name can never point out of its folder, nor at an earlier version.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
MOST_CARDS = 200


@dataclass(frozen=True, kw_only=True)
class ShelvedCard:
    """One scorecard file. ``place``: OWN, USED or BUNDLED."""

    place: str
    name: str
    path: Path


def shelved_cards(home: ClientHome) -> list[ShelvedCard]:
    """Return the site's scorecards: its own by name, the one in use, then the package's."""
    used = [ShelvedCard(place=USED, name="scorecard", path=home.scorecard)] if home.scorecard.is_file() else []
    return [*_in(home.scorecards, OWN), *used, *_in(SCORECARDS, BUNDLED)]


def find_card(home: ClientHome, name: str, place: str = "") -> ShelvedCard:
    """Return the scorecard of this name, the site's own first. InputError where there is none."""
    for card in shelved_cards(home):
        if card.name == name and place in ("", card.place):
            return card
    raise InputError("there is no scorecard of this name; `client card list` names those that are there")


def save_card(home: ClientHome, name: str, text: str) -> Path:
    """Keep a scorecard (YAML) under ``name`` among the site's own; an earlier one of that name is kept beside it.

    Raises InputError for a name that is not plain or is the package's, for a card that the reader refuses, and when
    there are too many.
    """
    if _NAME.fullmatch(name) is None:
        raise InputError("name: expected 1 to 64 letters, digits, '_' or '-', the first a letter or digit")
    if (SCORECARDS / f"{name}.yaml").exists():
        raise InputError(f"name: {name} comes with the package and stays as it is; choose another name")
    parse_scorecard(text, f"{name}.yaml")
    path = home.scorecards / f"{name}.yaml"
    if not path.exists() and len(_in(home.scorecards, OWN)) >= MOST_CARDS:
        raise InputError(f"{home.scorecards}: holds {MOST_CARDS} scorecards; remove one first")
    home.scorecards.mkdir(mode=0o700, exist_ok=True)
    if path.exists():
        create_file(_earlier(path), path.read_bytes(), PRIVATE)
    write_text(path, text)
    return path


def _in(folder: Path, place: str) -> list[ShelvedCard]:
    paths = sorted(folder.glob("*.yaml")) if folder.is_dir() else []
    return [ShelvedCard(place=place, name=path.stem, path=path) for path in paths if _NAME.fullmatch(path.stem)]


def _earlier(path: Path) -> Path:
    """Return the next free name for an earlier version."""
    number = 1
    while (found := path.with_name(f"{path.stem}.{number}.yaml")).exists():
        number += 1
    return found

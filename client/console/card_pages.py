"""The scorecards' pages: which there are, and the editor with its preview on the site's own reference plans."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment

from client.cards.form import CRITERION, CardError, CardForm
from client.cards.shelf import BUNDLED, OWN, ShelvedCard, find_card, save_card, shelved_cards
from client.console.own_command import run_client
from client.site.home import ClientHome
from privacy.pages.frame import Given, add_act
from shared_model.core.errors import InputError
from shared_model.patient.anatomy import ORGANS
from shared_model.scoring.regions import BODY, RELATIVE_TARGETS
from shared_model.scoring.scorecard import REDUCTIONS

# What the fields offer; others may be typed, and the reader of scorecards judges them.
CHOICES = {
    "structures": (*RELATIVE_TARGETS, "PTV_7000", BODY, *ORGANS),
    "metrics": (
        "D95%", "D98%", "D2%", "D0.1cc", "Mean", "Max", "Min", "V20Gy", "V95%", "CV20Gy", "CV95%", "CI95%", "HI", "GI",
        "R50%",
    ),
    "reduce": REDUCTIONS,
    "unit": ("Gy", "%Rx", "%", "cc", "ratio"),
    "direction": ("higher", "lower"),
}  # fmt: skip
_AGAIN = "again"  # asks to read the plans' files again
_SECONDS = 8.0  # of reading plans, before the page shows what it has
_MOST_S = 300.0


class CardPages:
    """Pages and acts of the scorecards of one site."""

    def __init__(self, app: FastAPI, home: ClientHome, templates: Environment) -> None:
        self._home, self._templates = home, templates
        self._one = threading.Lock()  # one preview at a time, however many pages are open
        app.mount("/own", StaticFiles(directory=Path(__file__).parent / "static"), name="own")
        app.get("/cards")(self.shelf)
        app.get("/cards/{place}/{name}")(self.card)
        add_act(app, "card/preview", self.preview)
        add_act(app, "card/save", self.save)

    def shelf(self) -> HTMLResponse:
        """All scorecards of the site."""
        return self._drawn("cards.html", own=OWN, bundled=BUNDLED, cards=shelved_cards(self._home))

    def card(self, place: str, name: str) -> HTMLResponse:
        """One scorecard, to be edited."""
        try:
            card = find_card(self._home, name, place)
            form = CardForm.read(card.path)
        except InputError as error:
            return self._drawn("damaged.html", 404, what="scorecard", why=str(error))
        blank = dict.fromkeys(CRITERION, "")
        return self._drawn("card.html", card=card, form=form, blank=blank, new_name=_new_name(card), choices=CHOICES)

    def preview(self, given: Given) -> Mapping[str, Any]:
        """Score the site's plans by the card as it stands on the page. What is drawn is HTML and escaped."""
        fields = {key: value for key, value in given.items() if key != _AGAIN}
        try:
            text, _ = _form(fields).checked()
        except CardError as error:
            return {"wrong": str(error), "field": error.field}
        arguments = ["card", "score", "-", "--home", str(self._home.folder), "--seconds", f"{_SECONDS:g}", "--json"]
        with self._one:
            told = run_client([*arguments, *(["--again"] if _AGAIN in given else [])], _MOST_S, given=text)
        record = json.loads(told)
        return {"html": self._part("card_preview.html", record=record), "waiting": record["waiting"]}

    def save(self, given: Given) -> Mapping[str, Any]:
        """Keep the card among the site's own."""
        form = CardForm.given(given)
        try:
            text, card = form.checked()
            path = save_card(self._home, form.top["name"], text)
        except CardError as error:
            return {"wrong": str(error), "field": error.field}
        except InputError as error:
            return {"wrong": str(error), "field": "name"}
        return {"words": f"saved as {path}, {len(card.criteria)} criteria", "link": f"/cards/{OWN}/{path.stem}"}

    def _drawn(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        return HTMLResponse(self._part(template, **values), status)

    def _part(self, template: str, **values: Any) -> str:
        return self._templates.get_template(template).render(values)


def _form(fields: Mapping[str, str]) -> CardForm:
    """The form as sent; a card without a name has one, for it can be scored before it is called anything."""
    form = CardForm.given(fields)
    return CardForm(top={**form.top, "name": form.top["name"] or "card"}, criteria=form.criteria)


def _new_name(card: ShelvedCard) -> str:
    """The name that the form proposes: a card of the package is saved as the site's own."""
    return card.name if card.place == OWN else f"our_{card.name}"

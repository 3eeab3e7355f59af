"""The scorecards' pages: what is typed is checked, scored and kept; what is hostile is words, or refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from client.cards.form import CardForm
from client.cards.shelf import save_card
from client.console.app import site_app
from client.site.home import ClientHome
from privacy.pages.guard import MOST_BODY, PageGuard, cookie_name
from shared_model.bundled import SCORECARDS
from shared_model.scoring.scorecard_read import read_scorecard
from tests.builders.card_home import card_home
from tests.builders.small_card import CARD

BASE = "http://127.0.0.1:9200"
COOKIE = cookie_name("127.0.0.1:9200")
TOKEN = "t" * 43
EVIL = "<script>alert(1)</script>'\"><img src=x onerror=alert(2)>"
RECORD = {
    "waiting": 3, "left_out": 1, "plans": 1, "score": 71.25, "most_failed": {"ids": [EVIL], "plans": 1},
    "criteria": [
        {"id": EVIL, "criterion": EVIL, "unit": EVIL, "weight": 2, "patients": 1, "failed": 1,
         "reference": {"value": 1.0, "points": 0.5, "broken": 0}},
        {"id": "b", "criterion": "b", "unit": "Gy", "weight": 1, "patients": 0, "failed": 0},
    ],
    "per_plan": [{"plan": 1, "score": 71.25, "failed": [EVIL], "broken": []}],
}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> ClientHome:
    made = card_home(tmp_path)
    save_card(made, "small", CARD)
    return made


@pytest.fixture
def page(home: ClientHome) -> Iterator[TestClient]:
    guard = PageGuard(token=TOKEN, hosts=frozenset({"127.0.0.1:9200"}), scheme="http", command="client console --link")
    with TestClient(site_app(home, guard), base_url=BASE, cookies={COOKIE: TOKEN}) as client:
        yield client


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Commands that the page runs, which answer with RECORD."""
    found: list[dict[str, Any]] = []

    def run(command: list[str], **given: Any) -> SimpleNamespace:
        found.append({"command": command, **given})
        return SimpleNamespace(returncode=0, stdout=json.dumps(RECORD), stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    return found


def post(page: TestClient, act: str, given: dict[str, str]) -> Any:
    return page.post(f"/acts/card/{act}", json=given, headers={"origin": BASE})


def fields(home: ClientHome, **changes: str) -> dict[str, str]:
    form = CardForm.read(home.scorecards / "small.yaml")
    criteria = {f"{n}.{key}": text for n, one in enumerate(form.criteria, 1) for key, text in one.items()}
    return {**form.top, **criteria, **{key.replace("__", "."): text for key, text in changes.items()}}


def test_the_shelf_lists_what_there_is_and_leads_to_it(home: ClientHome, page: TestClient) -> None:
    home.scorecard.write_text(CARD)
    assert 'href="/cards"' in page.get("/").text
    addresses = re.findall(r'href="(/cards/[^"]+)"', page.get("/cards").text)
    package = [f"/cards/bundled/{path.stem}" for path in sorted(SCORECARDS.glob("*.yaml"))]
    assert addresses == ["/cards/own/small", "/cards/used/scorecard", *package]
    for address in addresses:
        answer = page.get(address)
        assert answer.status_code == 200, address
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert not re.search(r"\sstyle=|<style|<script>|\son\w+=\"", answer.text)
        for named in re.findall(r'(?:href|src)="(/(?:static|own)/[^"]+)"', answer.text):
            assert page.get(named).status_code == 200, named
    assert 'value="small"' in page.get("/cards/own/small").text
    assert 'value="our_lung"' in page.get("/cards/bundled/lung").text


def test_a_preview_scores_what_is_typed_and_draws_words_as_words(
    home: ClientHome, page: TestClient, asked: list[dict[str, Any]]
) -> None:
    told = post(page, "preview", fields(home, name="", **{"2__points": "12: 1, 30: 0"})).json()
    assert told["waiting"] == 3
    assert "<b>71.2</b> of 100" in told["html"]
    assert "&lt;script&gt;alert(1)" in told["html"]
    assert "<script" not in told["html"]
    assert "<img" not in told["html"]
    (one,) = asked
    assert one["command"][-7:] == ["score", "-", "--home", str(home.folder), "--seconds", "8", "--json"]
    assert "- [12, 1]" in one["input"] or "[12, 1]" in one["input"]
    post(page, "preview", fields(home) | {"again": "yes"})
    assert asked[1]["command"][-1] == "--again"


def test_what_cannot_be_read_is_told_by_its_field_and_nothing_is_run(
    home: ClientHome, page: TestClient, asked: list[dict[str, Any]]
) -> None:
    wrong = fields(home, **{"2__weight": "many"})
    for act in ("preview", "save"):
        answer = post(page, act, wrong)
        assert answer.status_code == 200
        assert answer.json()["field"] == "2.weight"
        assert answer.json()["wrong"].startswith("criterion 2, larynx, weight: 'many': expected a number")
    assert asked == []
    assert [path.name for path in home.scorecards.iterdir()] == ["small.yaml"]


def test_what_the_command_refuses_is_told(home: ClientHome, page: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = SimpleNamespace(returncode=2, stdout="", stderr="client: error: site.yaml: no such file\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: refused)
    answer = post(page, "preview", fields(home))
    assert (answer.status_code, answer.json()["error"]) == (400, "site.yaml: no such file")

    def slow(command: list[str], **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, 300)

    monkeypatch.setattr(subprocess, "run", slow)
    assert "has not ended after 300 s" in post(page, "preview", fields(home)).json()["error"]


def test_a_card_is_saved_as_the_reader_reads_it(home: ClientHome, page: TestClient) -> None:
    told = post(page, "save", fields(home, name="ours", **{"1__constraint": "85", "3__id": EVIL})).json()
    assert told["link"] == "/cards/own/ours"
    path = home.scorecards / "ours.yaml"
    card = read_scorecard(path)
    assert (card.criteria[0].constraint, card.criteria[2].id) == (85.0, EVIL)
    assert path.stat().st_mode & 0o777 == 0o600
    text = page.get(told["link"]).text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_saving_again_keeps_what_was_there(home: ClientHome, page: TestClient) -> None:
    post(page, "save", fields(home, **{"2__weight": "2", "2__points": "10: 2, 30: 0"}))
    assert (home.scorecards / "small.1.yaml").read_text() == CARD
    assert read_scorecard(home.scorecards / "small.yaml").criteria[1].weight == 2


@pytest.mark.parametrize("name", ["head_neck", "../site", "/etc/x", "a.b", "", EVIL, "policy.yaml", "a/../../b"])
def test_no_name_leads_to_another_file(home: ClientHome, page: TestClient, name: str) -> None:
    before = sorted(path for path in home.folder.rglob("*") if path.is_file())
    answer = post(page, "save", fields(home, name=name))
    assert answer.json()["field"] == "name", answer.text
    assert sorted(path for path in home.folder.rglob("*") if path.is_file()) == before


@pytest.mark.parametrize(
    "address",
    ["own/missing", "own/..%2Fsite", "own/%2e%2e", "other/small", "bundled/small", "own/small.yaml", "used/x"],
)
def test_what_is_no_card_is_not_shown(page: TestClient, address: str) -> None:
    answer = page.get(f"/cards/{address}")
    assert answer.status_code == 404
    assert "rt-scorecard" not in answer.text


def test_a_damaged_card_says_so(home: ClientHome, page: TestClient) -> None:
    (home.scorecards / "small.yaml").write_text("schema: <b>")
    answer = page.get("/cards/own/small")
    assert answer.status_code == 404
    assert "This scorecard cannot be read" in answer.text
    assert "<b>" not in answer.text


def test_a_flood_is_refused(home: ClientHome, page: TestClient, asked: list[dict[str, Any]]) -> None:
    for more in ({"1.id": "x" * 2001}, {f"{n}.id": "x" for n in range(1, 102)}, {EVIL: "x"}):
        for act in ("preview", "save"):
            assert post(page, act, {**fields(home), **more}).status_code == 400
    assert post(page, "preview", {"name": "x" * MOST_BODY}).status_code == 403
    assert page.post("/acts/card/save", json={"name": ["x"]}, headers={"origin": BASE}).status_code == 422
    assert asked == []


def test_others_get_nothing_and_change_nothing(home: ClientHome, page: TestClient, asked: list[dict[str, Any]]) -> None:
    for address in ("/cards", "/cards/own/small", "/own/cards.js"):
        assert page.get(address, headers={"cookie": ""}).status_code == 401
    for act in ("save", "preview"):
        for headers in ({}, {"origin": "http://evil.example"}):
            assert page.post(f"/acts/card/{act}", json=fields(home, name="x"), headers=headers).status_code == 403
        none = {"origin": BASE, "cookie": ""}
        assert page.post(f"/acts/card/{act}", json=fields(home, name="x"), headers=none).status_code == 401
    assert asked == []
    assert [path.name for path in home.scorecards.iterdir()] == ["small.yaml"]


def test_checking_a_card_loads_no_torch(home: ClientHome) -> None:
    code = (
        "import sys; from pathlib import Path; import client.console.serve; from client.cards.form import CardForm;"
        "CardForm.read(Path(sys.argv[1])).checked(); sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(home.scorecards / "small.yaml")]
    assert subprocess.run(command, check=False).returncode == 0

"""The hospital's page shows the curves of its own alignment, as the alignment itself writes them, and hides damage."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from client.adapters.align import write_curves
from client.console.alignments import own_alignments
from client.console.app import site_app
from client.site.home import ClientHome
from privacy.pages.guard import PageGuard, cookie_name
from tests.builders.hospital_homes import Homes

ADDRESS, TOKEN = "127.0.0.1:9200", "t" * 43
HISTORY = [
    {"epoch": 0.0, "score": 80.0, "mae_ref5_gy": 3.0, "broken": 0.0},
    {"epoch": 1.0, "score": 81.5, "mae_ref5_gy": 3.1, "broken": 0.0, "reward": 60.0, "loss": 0.25},
    {"epoch": 2.0, "score": 84.5, "mae_ref5_gy": 2.9, "broken": 0.0, "reward": 64.0, "loss": 0.2},
]
EVIL = "<script>alert(1)</script>"


@pytest.fixture
def home(tmp_path: Path) -> ClientHome:
    return Homes(tmp_path / "homes").homes["a"]


@pytest.fixture
def page(home: ClientHome) -> Iterator[TestClient]:
    guard = PageGuard(token=TOKEN, hosts=frozenset({ADDRESS}), scheme="http", command="client console --link")
    with TestClient(site_app(home, guard), base_url=f"http://{ADDRESS}", cookies={cookie_name(ADDRESS): TOKEN}) as at:
        yield at


def aligned(home: ClientHome, name: str, epochs: int) -> Path:
    folder = home.private_adapters / name
    folder.mkdir(parents=True)
    write_curves(folder, HISTORY[: epochs + 1])
    return folder


def test_the_page_shows_the_curves_epoch_by_epoch_and_how_it_ended(home: ClientHome, page: TestClient) -> None:
    assert "None yet: <code>client adopt" in page.get("/").text
    folder = aligned(home, "ab12", 1)
    text = page.get("/").text
    assert "Epoch 1 is done" in text
    assert "score of held-back patients, points of 100: <b>81.5</b>" in text
    assert "reward of the candidates: <b>60</b>" in text, "the start has no reward"
    assert 'aria-label="error of held-back patients, Gy, epochs 0 to 1, between 3 and 3.1"' in text
    write_curves(folder, HISTORY)
    record = {"card": {"name": EVIL, "version": "1"}, "best_epoch": 2, "history": HISTORY}
    (folder / "align.json").write_text(json.dumps(record))
    text = page.get("/").text
    assert "score of held-back patients, points of 100: <b>84.5</b>" in text, "read again when the file has changed"
    assert "Ended after epoch 2; the weights of epoch 2 are kept" in text
    assert EVIL not in text
    write_curves(folder, [*HISTORY, {**HISTORY[-1], "epoch": 3.0}])
    assert "Epoch 3 is done" in page.get("/").text, "the record is of the end before"


def test_the_newest_alignment_comes_first_and_damage_is_no_curve(home: ClientHome, page: TestClient) -> None:
    for age, name in enumerate(("new", "old", "bad")):
        path = aligned(home, name, 2) / "curves.csv"
        if name == "bad":
            path.write_bytes(b"epoch,score\nx,1\n1,\xff\n")
            (path.parent / "align.json").write_text("[]")
        os.utime(path, (1000.0 - age, 1000.0 - age))
    assert [own.name for own in own_alignments(home)] == ["new", "old", "bad"]
    bad = own_alignments(home)[-1]
    assert (bad.curves, bad.done, bad.best_epoch) == ({}, False, 0)
    assert page.get("/").status_code == 200

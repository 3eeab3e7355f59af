"""The site's page: words from elsewhere are words, nobody gets in without the token, a plan is accepted as shown."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from matplotlib.image import imread
from typer.testing import CliRunner

from client.cli import app
from client.console.app import site_app
from client.console.serve import running_link
from client.node.asked import note_asked, read_asked
from client.setup import agree, enrol
from client.site.home import ClientHome
from client.site.predictions import note_prediction, noted_predictions
from privacy.agreement.federation_plan import plan_hash
from privacy.pages.guard import PageGuard, cookie_name
from privacy.trust.membership import AdmissionRequest
from shared_model.core.errors import InputError
from shared_model.core.files import write_json
from tests.builders.consortium import Consortium

BASE = "http://127.0.0.1:9200"
COOKIE = cookie_name("127.0.0.1:9200")
TOKEN = "t" * 43
EVIL = "<script>alert(1)</script>'\"><img src=x onerror=alert(2)>"
PRIVATE = {"cohort": 20}


@pytest.fixture
def consortium() -> Consortium:
    return Consortium()


@pytest.fixture
def home(tmp_path: Path, consortium: Consortium) -> ClientHome:
    """An admitted site to which a plan with another hospital, south, is offered."""
    root = tmp_path / "cases"
    root.mkdir()
    for number in range(5):
        (root / f"p{number}.npz").touch()
    data = enrol.Data(kind="cases", root=root, site_config=None)
    made = enrol.make_home(consortium.invitation("north"), tmp_path / "north", data)
    request = AdmissionRequest.read(made.request_file.read_bytes())
    sites = {"north": request.identity.public_bytes_raw().hex(), "south": "ab" * 32}
    plan = consortium.plan(sites=sites).to_signed(consortium.signer_key)
    enrol.take_admission(made, consortium.admission(request, plan))
    return made


@pytest.fixture
def page(home: ClientHome) -> Iterator[TestClient]:
    hosts = frozenset({"127.0.0.1:9200", "localhost:9200"})
    guard = PageGuard(token=TOKEN, hosts=hosts, scheme="http", command="client console --link")
    with TestClient(site_app(home, guard), base_url=BASE, cookies={COOKIE: TOKEN}) as client:
        yield client


def post(page: TestClient, act: str, **given: str) -> Any:
    return page.post(f"/acts/{act}", json=given, headers={"origin": BASE})


def offered(home: ClientHome) -> str:
    return plan_hash(home.offered_plan.read_bytes())


def a_prediction(home: ClientHome, folder: Path, case: str = "p1", structure: str = "PTV_7000") -> None:
    folder.mkdir()
    shape = (6, 5, 4)
    dose = np.zeros(shape, np.float32)
    dose[3] = 70.0
    mask = np.zeros((1, *shape), bool)
    mask[0, 2:5, 1:4, 1:3] = True
    np.savez_compressed(folder / "dose.npz", dose_gy=dose, spacing_mm=np.array([5.0, 2.0, 2.0]))
    np.savez_compressed(folder / "view.npz", grey=np.full(shape, 90, np.uint8), masks=np.packbits(mask, axis=-1))
    rows = [f'"{structure}",{k / 10:.1f},{100 - k / 7:.3f}' for k in range(700)]
    (folder / "dvh.csv").write_text("structure,dose_gy,volume_percent\n" + "\n".join(rows) + "\n")
    record = {"case": case, "adapter": "abc", "adapter_name": EVIL, "notes": [EVIL], "grid": {"shape": list(shape)}}
    (folder / "report.json").write_text(json.dumps({**record, "metrics_gy": {f"{structure}/D95": 66.5}}))
    note_prediction(home, folder, case)


def test_the_page_shows_the_site_and_its_plan_in_plain_words(home: ClientHome, page: TestClient) -> None:
    write_json(home.state("check"), {
        "at": 1.0, "usable": 4, "total": 5, "ready": False,
        "checks": [{"check": "disk", "state": "fail", "found": "full", "todo": "make room"}],
        "patients": [{"patient": "p3", "usable": False, "why": ["no dose"], "todo": ["export it"]}],
    })  # fmt: skip
    note_asked(
        home.state("asked"), {"kind": "train", "round": "3", "ok": True, "wall_s": 2.5, "at": 5.0, "refused": ""}
    )
    text = page.get("/").text
    for words in ("north", "offered, not accepted", "4 of 5 patients", "make room", "no dose", "not running", "given"):
        assert words in text, words
    digits = agree.peers_of(home, home.read_plan(home.offered_plan))[0].digits
    assert digits in text
    assert "epsilon 0.000 spent of 8.0" in text
    assert "this plan needs none" in text, "the policy allows mode shared alone"


def test_words_from_elsewhere_are_shown_as_words(home: ClientHome, page: TestClient, tmp_path: Path) -> None:
    note_asked(home.state("asked"), {"kind": EVIL, "round": EVIL, "refused": EVIL, "at": EVIL, "wall_s": EVIL})
    write_json(home.state("check"), {
        "at": EVIL, "usable": EVIL, "total": 1, "ready": True,
        "checks": [{"check": EVIL, "state": EVIL, "found": EVIL, "todo": EVIL}],
        "patients": [{"patient": EVIL, "usable": False, "why": [EVIL], "todo": [EVIL]}],
    })  # fmt: skip
    a_prediction(home, tmp_path / "made", EVIL, EVIL.replace('"', ""))
    key = noted_predictions(home)[0].key
    for address in ("/", f"/predictions/{key}"):
        text = page.get(address).text
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert "&lt;script&gt;alert(1)" in text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"cookie": ""}, 401),
        ({"cookie": f"{COOKIE}={'x' * 43}"}, 401),
        ({"cookie": f"fedkt3d_page_9190={TOKEN}"}, 401),
        ({"host": "evil.example:9200"}, 403),
        ({"origin": "http://evil.example"}, 403),
    ],
)
def test_others_get_nothing(page: TestClient, headers: dict[str, str], status: int) -> None:
    for address in ("/", "/live", "/predictions/x", "/static/console.js"):
        assert page.get(address, headers=headers).status_code == status, address


def test_what_changes_something_comes_from_the_page_itself(home: ClientHome, page: TestClient) -> None:
    given = {"sha256": offered(home)}
    for headers in ({}, {"origin": "http://evil.example"}, {"origin": "http://127.0.0.1:9190"}):
        assert page.post("/acts/decline", json=given, headers=headers).status_code == 403
    assert not agree.is_declined(home, given["sha256"])


def test_a_plan_is_accepted_as_it_was_shown_with_the_ticked_hospitals(
    home: ClientHome, page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: object) -> SimpleNamespace:
        # What the command does, without its torch.
        home.plan_file.write_bytes(Path(command[command.index("--accept") + 1]).read_bytes())
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    wrong = post(page, "accept", sha256="0" * 64)
    assert wrong.status_code == 400
    assert "not the plan that waits" in wrong.json()["error"]
    assert not home.plan_file.exists()
    assert post(page, "accept", **{"sha256": offered(home), "peer:east": "yes"}).status_code == 400
    assert not home.plan_file.exists()
    done = post(page, "accept", **{"sha256": offered(home), "peer:south": "yes"})
    assert done.status_code == 200, done.text
    assert list(home.peers.load()) == ["south"]
    text = page.get("/").text
    assert "accepted: requests that do not fit it" in text
    assert 'id="accept"' not in text


def test_what_the_command_refuses_is_told(home: ClientHome, page: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = SimpleNamespace(returncode=2, stderr="client: error: plan: it has expired\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: refused)
    answer = post(page, "accept", sha256=offered(home))
    assert (answer.status_code, answer.json()["error"]) == (400, "plan: it has expired")
    assert home.peers.load() == {}


def test_a_plan_is_declined_by_a_command_too(home: ClientHome, page: TestClient) -> None:
    sha256 = offered(home)
    told = CliRunner().invoke(app, ["plan", "--home", str(home.folder), "--decline"])
    assert told.exit_code == 0, told.output
    assert agree.is_declined(home, sha256)
    assert "declined here" in page.get("/").text
    home.plan_file.write_bytes(home.offered_plan.read_bytes())
    with pytest.raises(InputError, match=r"--decline: the offered one is accepted; client leave"):
        agree.decline_offered(home)
    home.plan_file.unlink()
    home.offered_plan.unlink()
    with pytest.raises(InputError, match="--decline: none is offered"):
        agree.decline_offered(home)


def test_a_declined_plan_is_said_to_be_and_binds_nobody(home: ClientHome, page: TestClient) -> None:
    assert "A plan waits for your decision" in page.get("/").text
    assert post(page, "decline", sha256=offered(home)).status_code == 200
    text = page.get("/").text
    assert "declined here" in text
    assert "A plan waits for your decision" not in text
    assert 'id="accept"' in text, "it can still be accepted"
    assert not home.plan_file.exists()


def test_a_prediction_has_dvhs_numbers_and_slices(home: ClientHome, page: TestClient, tmp_path: Path) -> None:
    a_prediction(home, tmp_path / "made")
    key = noted_predictions(home)[0].key
    assert f'href="/predictions/{key}"' in page.get("/").text
    text = page.get(f"/predictions/{key}").text
    for words in ("PTV_7000", "66.50", 'max="5"', "axial slice 4 of 6"):
        assert words in text, words
    dose, beside = (imread(io.BytesIO(page.get(f"/predictions/{key}/axial/{k}.png").content)) for k in (3, 0))
    assert dose.shape == beside.shape == (448, 358, 4)
    assert np.ptp(beside[..., :3], axis=2).max() == 0, "no dose, no structure: grey alone"
    assert np.ptp(dose[..., :3], axis=2).max() > 0.3, "the dose is drawn in colour"
    side = imread(io.BytesIO(page.get(f"/predictions/{key}/coronal/2.png").content))
    assert side.shape[:2] == (448, 119), "30 mm high, 8 mm wide"
    coloured = np.flatnonzero(np.ptp(side[:, 5, :3], axis=1) > 0.3)
    assert 448 / 3 - 1 <= coloured.min() <= 448 / 3 + 1, "superior is at the top: slice 3 of 0 to 5 is the third"
    for wrong in ("axial/6", "axial/-1", "oblique/1", "axial/x"):
        assert page.get(f"/predictions/{key}/{wrong}.png").status_code in (404, 422), wrong
    assert page.get("/predictions/0000000000000000").status_code == 404


def test_a_damaged_prediction_says_so(home: ClientHome, page: TestClient, tmp_path: Path) -> None:
    a_prediction(home, tmp_path / "made")
    key = noted_predictions(home)[0].key
    (tmp_path / "made" / "dvh.csv").write_text("structure,dose_gy,volume_percent\nPTV,x,y\n")
    assert "cannot be read" in page.get(f"/predictions/{key}").text
    (tmp_path / "made" / "dose.npz").write_bytes(b"PK")
    assert page.get(f"/predictions/{key}/axial/1.png").status_code == 404
    (tmp_path / "made" / "report.json").unlink()
    assert noted_predictions(home) == []


def test_all_that_a_page_names_is_there_and_no_style_is_in_it(
    home: ClientHome, page: TestClient, tmp_path: Path
) -> None:
    a_prediction(home, tmp_path / "made")
    key = noted_predictions(home)[0].key
    for address in ("/", f"/predictions/{key}"):
        answer = page.get(address)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert not re.search(r"\sstyle=|<style|<script>|\son\w+=\"", answer.text)
        for named in re.findall(r'(?:href|src)="(/(?:static|predictions)/[^"]+)"', answer.text):
            assert page.get(named).status_code == 200, named


def test_what_was_asked_is_kept_to_a_length_and_survives_damage(tmp_path: Path) -> None:
    path = tmp_path / "asked.json"
    for number in range(205):
        note_asked(path, {"round": str(number)})
    assert [line["round"] for line in read_asked(path)][:2] == ["204", "203"]
    assert len(read_asked(path)) == 200
    path.write_text("{")
    assert read_asked(path) == []


def test_the_running_page_is_named_only_while_it_runs(home: ClientHome) -> None:
    with pytest.raises(InputError, match="no page runs"):
        running_link(home)


def test_the_page_loads_no_torch() -> None:
    code = "import sys, client.console.serve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""The console shows hostile words as words, lets nobody in without its token, and does what would be typed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from privacy.pages.guard import PageGuard, cookie_name, token_of
from privacy.trust.link import JoinLink
from privacy.trust.membership import Invitation
from privacy.trust.peers import peer_digits
from server.config.compose import compose_run
from server.console.app import console_app
from server.console.overview import Overview
from server.consortium.admission import Admissions
from server.deployment.control import Control
from server.deployment.desk import JoinDesk
from server.deployment.home import ServerHome, create
from server.record.patient_counts import PatientCounts
from server.runs import index as runs
from shared_model.core.errors import InputError
from tests.builders.consortium import Site

BASE = "http://127.0.0.1:9190"
COOKIE = cookie_name("127.0.0.1:9190")
TOKEN = "t" * 43
EVIL = "<script>alert(1)</script>'\"><img src=x onerror=alert(2)>"


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    return create("cons", tmp_path / "c", "127.0.0.1", 9092, 9093, [])


@pytest.fixture
def page(home: ServerHome) -> Iterator[TestClient]:
    guard = PageGuard(token=TOKEN, hosts=frozenset({"127.0.0.1:9190", "localhost:9190"}), scheme="http", command="x")
    with TestClient(console_app(home, guard), base_url=BASE, cookies={COOKIE: TOKEN}) as client:
        yield client


def a_run(home: ServerHome, name: str, *events: dict[str, object]) -> Path:
    config = compose_run([f"name={name}", "privacy.mode=none", "rounds.count=3"], 3)
    out = runs.default_out(home, name)
    out.mkdir(parents=True)
    runs.remember(home, f"id-of-{name}", config, out)
    (out / "events.jsonl").write_text("".join(json.dumps({"time": 1.0, "rounds": 3, **e}) + "\n" for e in events))
    return out


def test_both_pages_show_what_there_is(home: ServerHome, page: TestClient) -> None:
    done = {"kind": "round_done", "round": 1, "sites": 2, "metrics": {"loss": 0.25}, "wire_bytes": 3_000_000}
    a_run(home, "first", {"kind": "site_joined", "round": 1, "site": "north", "detail": "12 patients"}, done)
    front = page.get("/").text
    for words in ("cons", "not running", "first", "1 of 3", "127.0.0.1:9092", "No site yet"):
        assert words in front
    shown = page.get("/runs/first").text
    for words in ("north", "12 patients", "0.25", "3.0 MB", "<svg", "started from"):
        assert words in shown
    assert page.get("/runs/other").status_code == 404


def test_words_of_a_site_are_shown_as_words(home: ServerHome, page: TestClient) -> None:
    dropped = {"kind": "site_dropped", "round": 1, "site": EVIL, "reason": EVIL, "detail": EVIL}
    joined = {"kind": "site_joined", "round": 1, "site": EVIL, "detail": EVIL}
    a_run(home, "first", joined, dropped, {"kind": "round_done", "round": 1, "metrics": {EVIL: 1.0}})
    for address in ("/runs/first", "/"):
        text = page.get(address).text
        assert "<script>alert" not in text
        assert "<img src=x" not in text
    assert "&lt;script&gt;alert(1)" in page.get("/runs/first").text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"cookie": ""}, 401),
        ({"cookie": f"{COOKIE}={'x' * 43}"}, 401),
        ({"host": "evil.example:9190"}, 403),
        ({"host": "127.0.0.1:9999"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://127.0.0.1:9190"}, 403),
    ],
)
def test_others_are_refused(page: TestClient, headers: dict[str, str], status: int) -> None:
    if "cookie" in headers:
        page.cookies.clear()
    for address in ("/", "/live", "/static/console.js"):
        assert page.get(address, headers=headers).status_code == status, address


@pytest.mark.parametrize("origin", [None, "http://evil.example", "http://localhost:9190"])
def test_only_the_consoles_own_page_changes_anything(home: ServerHome, page: TestClient, origin: str | None) -> None:
    headers = {} if origin is None else {"origin": origin}
    assert page.post("/acts/invite", json={"site": "north"}, headers=headers).status_code == 403
    assert not home.invitations_file.exists()


def test_long_bodies_are_refused_unread(page: TestClient) -> None:
    answer = page.post("/acts/admit", content=b"x" * 1_000_001, headers={"origin": BASE})
    assert answer.status_code == 403
    assert "longer" in answer.text


def test_the_token_in_the_first_address_becomes_a_cookie_and_leaves_the_address(page: TestClient) -> None:
    page.cookies.clear()
    answer = page.get(f"/?token={TOKEN}", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert page.get("/?token=wrong", follow_redirects=False).status_code == 403


def test_every_answer_shuts_the_page_in(page: TestClient) -> None:
    for address in ("/", "/nowhere", "/static/console.css"):
        headers = page.get(address).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_all_that_a_page_names_is_there(page: TestClient) -> None:
    named = re.findall(r'(?:href|src)="(/static/[^"]+)"', page.get("/").text)
    assert len(named) == 3
    for address in named:
        assert page.get(address).status_code == 200, address


def test_a_token_is_made_once_and_is_its_owners_alone(home: ServerHome) -> None:
    file = home.secret("console")
    first = token_of(file)
    assert token_of(file) == first
    assert len(first) >= 40
    assert file.stat().st_mode & 0o077 == 0


def test_a_site_is_invited_from_the_page(home: ServerHome, page: TestClient, tmp_path: Path) -> None:
    answer = page.post("/acts/invite", json={"site": "north", "days": "3"}, headers={"origin": BASE})
    made = answer.json()
    assert answer.status_code == 200
    assert made["file"] == "north.invitation"
    invitation = Invitation.from_json(made["content"].encode())
    assert invitation.site == "north"
    assert JoinLink.parse(made["link"]) == JoinLink.of(invitation)
    assert made["qr"].startswith("<svg")
    assert "invited" in page.get("/").text
    again = page.post("/acts/invite", json={"site": "No Site!", "days": "x"}, headers={"origin": BASE})
    assert again.status_code == 400
    assert "expected" in again.json()["error"]


def test_settings_cannot_be_options(page: TestClient) -> None:
    for settings in ("--resume", "name=a --out /tmp/x", "-h", "plain"):
        answer = page.post("/acts/start", json={"settings": settings}, headers={"origin": BASE})
        assert answer.status_code == 400, settings
        assert "expected settings such as" in answer.json()["error"]


def test_only_a_runs_own_results_can_be_saved(home: ServerHome, page: TestClient) -> None:
    out = a_run(home, "first")
    (out / "adapter.safetensors").write_bytes(b"weights")
    (out / "run.json.key").write_bytes(b"secret")
    answer = page.get("/runs/first/files/adapter.safetensors")
    assert answer.content == b"weights"
    assert 'filename="first-adapter.safetensors"' in answer.headers["content-disposition"]
    for name in ("run.json", "..%2F..%2Fserver.json", "run.json.key"):
        assert page.get(f"/runs/first/files/{name}").status_code == 404


def test_a_look_takes_in_what_was_added(home: ServerHome) -> None:

    out = a_run(home, "first")
    overview = Overview(home)
    before = overview.run("first")
    assert before is not None
    assert before.view.done == 0
    with (out / "events.jsonl").open("a") as file:
        file.write('{"kind": "round_done", "round": 2, "rounds": 3}\n')
    after = overview.run("first")
    assert after is not None
    assert after.view.done == 2


def test_the_adapters_hash_and_where_it_went(home: ServerHome, page: TestClient) -> None:
    out = a_run(home, "first", {"kind": "finished"})
    (out / runs.REPORT).write_text(json.dumps({"adapter_sha256": "ab" * 32}))
    home.public_log().add("publish", run="first", adapter="cd" * 32)
    home.public_log().add("publish", run="other", adapter="ef" * 32)
    text = page.get("/runs/first").text
    assert f"adapter: <code>{'ab' * 32}</code>" in text
    assert f"published, file: <code>{'cd' * 32}</code>" in text
    assert "ef" * 32 not in text


def test_pages_that_are_drawn_at_once_count_every_event_once(home: ServerHome, page: TestClient) -> None:
    out = a_run(home, "first")
    addresses = ["/runs/first", "/"] * 8
    for number in range(1, 4):
        done = {"kind": "round_done", "round": number, "rounds": 3, "wire_bytes": 1_000_000, "time": 1.0}
        with (out / "events.jsonl").open("a") as file:
            file.write((json.dumps({"kind": "notice", "detail": "x" * 2000}) + "\n") * 300 + json.dumps(done) + "\n")
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(page.get, addresses))
        assert {answer.status_code for answer in answers} == {200}
        assert f"{number}.0 MB" in page.get("/runs/first").text


def test_a_noised_runs_budget_falls_with_its_rounds(home: ServerHome, page: TestClient) -> None:
    asked = ["name=private", "privacy.mode=shared", "privacy.cohort=200", "rounds.count=4", "privacy.epsilon=4"]
    config = compose_run(asked, 5)
    out = runs.default_out(home, "private")
    out.mkdir(parents=True)
    runs.remember(home, "id", config, out)

    def spent() -> str:
        text = page.get("/runs/private").text
        return text.split('id="budget">')[1].split("<")[0]

    assert spent().startswith("epsilon 0.00 of 4.0")
    with (out / "events.jsonl").open("a") as file:
        file.write('{"kind": "round_started", "round": 1, "rounds": 4}\n')
    first = spent()
    assert "1 of 4 releases" in first
    with (out / "events.jsonl").open("a") as file:
        file.write('{"kind": "round_started", "round": 2, "rounds": 4}\n')
    assert float(spent().split()[1]) > float(first.split()[1]) > 0.5


def test_statistics_are_in_the_budget_of_a_run(home: ServerHome, page: TestClient) -> None:
    asked = ["name=counted", "privacy.mode=masked", "privacy.cohort=200", "privacy.statistics=2"]
    out = runs.default_out(home, "counted")
    out.mkdir(parents=True)
    runs.remember(home, "id", compose_run(asked, 5), out)
    assert "epsilon 0.00 of 2.00 spent at delta 1e-05; 0 of 1 releases" in page.get("/runs/counted").text
    PatientCounts(run_id="ab" * 16, asked=1).write(out)
    with (out / "events.jsonl").open("a") as file:
        file.write('{"kind": "round_started", "round": 1, "rounds": 4}\n')
    assert "epsilon 2.00 of 2.00 spent at delta 1e-05; 1 of 1 releases" in page.get("/runs/counted").text


def test_listening_everywhere_needs_a_name() -> None:
    from server.console.serve import Address

    with pytest.raises(InputError, match="expected --name"):
        Address(host="0.0.0.0", port=9190)
    assert Address(host="0.0.0.0", port=9190, names=("fed.example",)).reached == {"0.0.0.0:9190", "fed.example:9190"}
    assert Address(host="127.0.0.1", port=9190).scheme == "http"
    assert Address(host="10.0.0.1", port=9190).scheme == "https"


def test_a_request_that_came_by_link_is_shown_with_its_digits_and_admitted_by_name(
    home: ServerHome, page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Control, "__init__", lambda self, home: None)
    monkeypatch.setattr(Control, "register", lambda self, path: "77")
    monkeypatch.setattr(Control, "nodes", lambda self: [])
    site = Site()
    invitation = Admissions(home).invite("north", 14)
    JoinDesk(home).answer(site.request(invitation))
    digits = peer_digits(invitation.consortium, "north", site.public.public_bytes_raw().hex())
    assert digits in page.get("/").text
    for given in ({"site": "", "request": ""}, {"site": "south", "request": ""}):
        assert page.post("/acts/admit", json=given, headers={"origin": BASE}).status_code == 400
    answer = page.post("/acts/admit", json={"site": "north", "request": ""}, headers={"origin": BASE})
    assert answer.status_code == 200, answer.text
    assert digits in " ".join(answer.json()["words"])
    assert home.admission("north").exists()
    assert "waits to be admitted" not in page.get("/").text

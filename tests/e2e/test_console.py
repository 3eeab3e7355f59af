"""The coordinator's web page in a real browser, beside a real federation: a run seen from its start to its adapter."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from server.config.compose import compose_run
from server.deployment.home import ServerHome
from server.runs import index as runs
from shared_model.adapter.manifest import load_adapter
from tests.e2e.browser import chromium, complaints, faults_of_access, needs_chromium, picture
from tests.e2e.conftest import FAST
from tests.e2e.deployment import START_S, Deployment, eventually, read

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), needs_chromium]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, hospitals: dict[str, Path]) -> Iterator[Deployment]:
    """A coordinator with its web page, and two hospitals, of which south is not started yet."""
    deployment = Deployment(tmp_path_factory.mktemp("shown"))
    try:
        deployment.start_coordinator(console=True)
        deployment.join("north", hospitals["north"])
        deployment.admit("south", deployment.make_site("south", hospitals["south"]))
        deployment.connected("north")
        yield deployment
    finally:
        deployment.close()


def test_a_run_is_started_followed_and_its_adapter_saved(shown: Deployment, tmp_path: Path) -> None:
    link = shown.must("server", "console", "--home", shown.home, "--link").strip()
    south = shown.spawn("client", shown.site("south"))
    with chromium(tmp_path) as browser:
        eventually(lambda: _opens(browser, link), START_S, "the console answers")
        assert "token" not in browser.current_url
        assert "ready for sites" in browser.find_element(By.ID, "live").text
        eventually(lambda: browser.find_element(By.ID, "live").text.count("online") == 2, 180, "both sites are online")
        assert faults_of_access(browser) == []

        invite = browser.find_element(By.CSS_SELECTOR, "form[data-act=invite]")
        invite.find_element(By.NAME, "site").send_keys("east")
        invite.find_element(By.TAG_NAME, "button").click()
        eventually(lambda: "fedkt3d://" in invite.find_element(By.TAG_NAME, "output").text, 30, "a link is made")
        picture(invite, "coordinator_invite")
        form = browser.find_element(By.CSS_SELECTOR, "form[data-act=start]")
        form.find_element(By.NAME, "settings").send_keys(" ".join(("name=watched", "rounds.count=6", *FAST)))
        form.find_element(By.TAG_NAME, "button").click()
        eventually(lambda: "was started" in form.find_element(By.TAG_NAME, "output").text, 30, "the run is accepted")
        eventually(lambda: "watched" in browser.find_element(By.ID, "live").text, 60, "the run is listed")

        browser.get(link.split("?")[0] + "runs/watched")
        eventually(lambda: "1 of 6" in _fact(browser, "Rounds"), 240, "a round appears by itself")
        # A hospital's staff stop its node in the middle of the run: the page says that, and what the run waits for.
        south.terminate()
        south.wait(60)
        eventually(lambda: "south" in browser.find_element(By.ID, "live").text and _fault(browser), 180, "it says why")
        shown.spawn("client", shown.site("south"))
        eventually(lambda: "6 of 6" in _fact(browser, "Rounds"), 240, "the run goes on to its end")
        eventually(lambda: "finished" in _fact(browser, "State"), 60, "and is said to have")
        assert browser.find_elements(By.CSS_SELECTOR, "figure svg path")
        picture(browser, "coordinator_run")
        assert faults_of_access(browser) == []

        eventually(lambda: bool(browser.find_elements(By.LINK_TEXT, "adapter.safetensors")), 30, "the adapter is there")
        browser.find_element(By.LINK_TEXT, "adapter.safetensors").click()
        saved = tmp_path / "saved" / "watched-adapter.safetensors"
        eventually(saved.exists, 30, "the adapter is saved")
        time.sleep(0.5)
        assert saved.read_bytes() == (shown.home / "runs" / "watched" / "adapter.safetensors").read_bytes()
        _, vector, _ = load_adapter(shown.home / "runs" / "watched" / "adapter.safetensors")
        assert vector.size > 0
        assert complaints(browser) == []


def test_the_budget_falls_by_itself_as_releases_are_asked_for(shown: Deployment, tmp_path: Path) -> None:
    """Of a noised run that the test writes down: hospitals whose noise is real are in test_join_by_link.py."""
    home = ServerHome.load(shown.home)
    asked = ["name=noised", "privacy.mode=shared", "privacy.cohort=200", "rounds.count=4", "privacy.epsilon=4"]
    out = runs.default_out(home, "noised")
    out.mkdir(parents=True)
    runs.remember(home, "noised", compose_run(asked, 5), out)
    link = shown.must("server", "console", "--home", shown.home, "--link").strip()
    with chromium(tmp_path) as browser:
        eventually(lambda: _opens(browser, link), START_S, "the console answers")
        browser.get(link.split("?")[0] + "runs/noised")
        eventually(lambda: _text(browser, "budget").startswith("epsilon 0.00 of 4.0"), 30, "nothing is spent yet")
        spent = [0.0]
        for number in (1, 2):
            with (out / runs.EVENTS).open("a") as file:
                file.write(json.dumps({"kind": "round_started", "round": number, "rounds": 4}) + "\n")
            words = f"{number} of 4 releases"
            eventually(lambda words=words: words in _text(browser, "budget"), 30, f"{words} are shown")
            spent.append(float(_text(browser, "budget").split()[1]))
        assert 0.5 < spent[1] < spent[2] < 4.0
        assert faults_of_access(browser) == []
        assert complaints(browser) == []


def test_the_pages_end_does_not_touch_a_run(shown: Deployment) -> None:
    log = shown.home / "state" / "start.json"
    killed = read(log)["console"]["pid"]
    os.kill(killed, signal.SIGKILL)
    outcome = shown.run("name=unwatched", "rounds.count=1", *FAST)
    assert len(outcome["report"]["history"]) == 1
    eventually(lambda: read(log)["console"]["pid"] not in (None, killed), 60, "the page is started again")


def test_on_a_phone_and_in_the_dark_nothing_is_cut_or_unreadable(shown: Deployment, tmp_path: Path) -> None:
    link = shown.must("server", "console", "--home", shown.home, "--link").strip()
    with chromium(tmp_path, width=390, height=844) as browser:
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        )
        eventually(lambda: _opens(browser, link), START_S, "the console answers")
        for address in ("", "runs/unwatched"):
            browser.get(link.split("?")[0] + address)
            wide = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
            assert wide <= 0, address
            assert faults_of_access(browser) == [], address


def _opens(browser, link: str) -> bool:  # type: ignore[no-untyped-def]
    from selenium.common.exceptions import WebDriverException

    try:
        browser.get(link)
    except WebDriverException:
        return False
    return bool(browser.find_elements(By.ID, "live"))


def _text(browser, place: str) -> str:  # type: ignore[no-untyped-def]
    """The text of the element with this id; empty while the page is being replaced."""
    from selenium.common.exceptions import WebDriverException

    try:
        return str(browser.find_element(By.ID, place).text)
    except WebDriverException:
        return ""


def _fact(browser, name: str) -> str:  # type: ignore[no-untyped-def]
    """The value beside a name in the list of facts; empty while the page is being replaced."""
    from selenium.common.exceptions import WebDriverException

    try:
        parts: list[WebElement] = browser.find_elements(By.CSS_SELECTOR, ".facts div")
        found = [part for part in parts if part.find_element(By.TAG_NAME, "dt").text == name]
        return found[0].find_element(By.TAG_NAME, "dd").text if found else ""
    except WebDriverException:
        return ""


def _fault(browser) -> str:  # type: ignore[no-untyped-def]
    """The newest line of what went wrong; empty where nothing did."""
    from selenium.common.exceptions import WebDriverException

    try:
        rows = browser.find_elements(By.CSS_SELECTOR, "section[aria-labelledby=faults] tbody tr")
        return str(rows[0].text) if rows else ""
    except WebDriverException:
        return ""

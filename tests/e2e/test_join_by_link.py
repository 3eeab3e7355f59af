"""From empty folders to the end of a first private round with five commands; all else happens on the two web pages.

Three hospitals, the least that mode shared allows. What a person clicks at the first hospital is clicked in a real
browser; at the other two the same pages are asked over HTTP.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By

from client.site.config import SiteConfig
from client.site.home import ClientHome
from client.site.ledger_binding import MARK
from tests.e2e.browser import chromium, complaints, faults_of_access, needs_chromium
from tests.e2e.deployment import SCRIPTS, START_S, Deployment, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800), needs_chromium]

NAMES = ("north", "south", "east")
RUN = (
    "name=first privacy.cohort=6 privacy.z=6 privacy.clip=0.1 privacy.views=1 model.prior=none model.base=none"
    " model.adapter=lora model.rank=2 model.shape=[16,16,16] rounds.count=1 rounds.evaluate_every=0"
    " rounds.wait_for_sites_s=120 rounds.deadline_s=200"
)


class Joining(Deployment):
    """A deployment that counts the commands that people type."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.typed: list[str] = []
        self.began = time.monotonic()

    def types(self, *arguments: str | Path) -> None:
        """A person types a command in a terminal of its own and leaves it running, or waits for its end."""
        program, *rest = (str(argument) for argument in arguments)
        self.typed.append(" ".join([program, *rest]))
        home = Path(rest[rest.index("--home") + 1])
        with (self.folder / f"{home.name}.out").open("ab") as out:
            process = subprocess.Popen(
                [str(SCRIPTS / program), *rest], env=self._environment, cwd=self.folder,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        self._started.append((process, home))
        if rest[0] == "init":
            assert process.wait(120) == 0


@pytest.fixture(scope="module")
def joining(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joining]:
    deployment = Joining(tmp_path_factory.mktemp("joining"))
    try:
        yield deployment
    finally:
        deployment.close()


def test_five_commands_from_empty_folders_to_the_first_round(
    joining: Joining, hospitals: dict[str, Path], tmp_path: Path
) -> None:
    ports = ("--port", str(joining.port), "--control-port", str(joining.control_port))
    joining.types("server", "init", "walk", "--home", joining.home, *ports)
    joining.types("server", "start", "--home", joining.home)
    coordinator = joining.must("server", "console", "--home", joining.home, "--link").strip()
    with chromium(tmp_path) as browser:
        eventually(lambda: _opens(browser, coordinator), START_S, "the coordinator's page answers")
        eventually(lambda: "ready for sites" in browser.find_element(By.ID, "live").text, START_S, "it is ready")
        for name in NAMES:
            told = _act(browser, "invite", site=name)
            link = re.search(r"fedkt3d://\S+", told)
            assert link is not None, told
            assert browser.find_element(By.CSS_SELECTOR, "form[data-act=invite] svg").rect["width"] > 100
            config = hospitals[name]
            (SiteConfig.load(config).root / MARK).unlink(missing_ok=True)
            where = ("--home", joining.site(name), "--site-config", config)
            joining.types("client", "join", link[0], *where, "--start")
        for name in NAMES:
            eventually(lambda name=name: browser.find_elements(By.ID, f"waits-{name}"), 300, f"{name} waits")
            digits = browser.find_element(By.ID, f"waits-{name}").find_element(By.TAG_NAME, "code").text
            assert digits in (joining.folder / f"site-{name}.out").read_text()
            assert "is admitted" in _act(browser, "admit", site=name)
        assert faults_of_access(browser) == []
        assert "run: first" in _act(browser, "plan", settings=RUN)
        for name in NAMES:
            joining.connected(name)
        for name in NAMES[1:]:
            _accepts(joining, name)
        _accepts_in_the_browser(joining, browser)

        browser.get(coordinator)
        assert "was started" in _act(browser, "start", settings=RUN)
        eventually(lambda: browser.find_elements(By.LINK_TEXT, "first"), 300, "the run is listed")
        browser.get(coordinator.split("?")[0] + "runs/first")
        # Not the budget's "1 of 1 releases", which is there once the round begins.
        done = (By.CSS_SELECTOR, "progress[aria-label=rounds][value='1']")
        eventually(lambda: browser.find_elements(*done), 400, "the first round is done")
        seconds = time.monotonic() - joining.began
        assert re.search(r"epsilon \d.* spent .* 1 of 1 releases", browser.find_element(By.ID, "budget").text)
        assert complaints(browser) == []
        browser.get(joining.must("client", "console", "--home", joining.site("north"), "--link").strip())
        eventually(lambda: "1, each verified" in _text(browser, "live"), 60, "the round's charge is shown")
        assert "train" in _text(browser, "live"), "what was asked"
        assert faults_of_access(browser) == []
    assert len(joining.typed) == 5
    (joining.folder / "figures.json").write_text(json.dumps({"typed": joining.typed, "seconds": seconds}))
    print(f"\n{len(joining.typed)} commands, {seconds:.0f} s from empty folders to the end of the first round")
    for name in NAMES:
        assert "usable" in (joining.folder / f"site-{name}.out").read_text(), "joining ends with the check"


def _accepts_in_the_browser(joining: Joining, browser: webdriver.Chrome) -> None:
    """A person at north reads the plan, ticks the hospitals whose digits they compared, and approves."""
    browser.get(joining.must("client", "console", "--home", joining.site("north"), "--link").strip())
    assert "plan first" in _act(browser, "fetch")
    eventually(lambda: browser.find_elements(By.ID, "accept"), 30, "the plan is on the page")
    assert faults_of_access(browser) == []
    shown = browser.find_element(By.TAG_NAME, "main").text
    for other in NAMES[1:]:
        assert _digits(joining, other) in shown, "the page shows the digits that the other hospital reads out"
    for box in browser.find_elements(By.CSS_SELECTOR, "input[type=checkbox]"):
        box.click()
    browser.find_element(By.CSS_SELECTOR, "form[data-act=accept] button").click()
    eventually(lambda: "accepted" in _text(browser, "plan-state"), 300, "the plan is accepted")


def _accepts(joining: Joining, name: str) -> None:
    """The same at another hospital, without a browser."""
    link = joining.must("client", "console", "--home", joining.site(name), "--link").strip()
    base = link.split("/?")[0]
    with httpx.Client(follow_redirects=True, trust_env=False, timeout=300, headers={"origin": base}) as page:
        page.get(link)
        page.post(f"{base}/acts/fetch", json={}).raise_for_status()
        found = page.get(base).text
        plan = re.search(r'name="sha256" value="([0-9a-f]{64})"', found)
        assert plan is not None
        boxes = {html.unescape(box): "yes" for box in re.findall(r'name="(peer:[^"]+)"', found)}
        assert len(boxes) == len(NAMES) - 1
        page.post(f"{base}/acts/accept", json={"sha256": plan[1], **boxes}).raise_for_status()


def _digits(joining: Joining, name: str) -> str:
    from client.setup.desk import own_digits

    return own_digits(ClientHome.load(joining.site(name)))


def _act(browser: webdriver.Chrome, name: str, **given: str) -> str:
    """Fill a form in and send it; what the page says then."""
    form = browser.find_element(By.CSS_SELECTOR, f"form[data-act={name}]")
    for key, value in given.items():
        field = form.find_element(By.NAME, key)
        field.clear()
        field.send_keys(value)
    form.find_element(By.TAG_NAME, "button").click()
    output = form.find_element(By.TAG_NAME, "output")
    # Read once: some pages load themselves again soon after.
    return str(eventually(lambda: output.text.removeprefix("working"), 300, f"{name} is answered"))


def _text(browser: webdriver.Chrome, name: str) -> str:
    try:
        return str(browser.find_element(By.ID, name).text)
    except WebDriverException:
        return ""


def _opens(browser: webdriver.Chrome, link: str) -> bool:
    try:
        browser.get(link)
    except WebDriverException:
        return False
    return bool(browser.find_elements(By.ID, "live"))

"""The scorecard editor in a real browser: change a card, see what the site's plans score, save it, align to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from client.adapters.align import align_files
from client.adapters.settings import AlignSettings
from client.setup import enrol
from client.site.config import SiteConfig
from client.site.home import ClientHome
from client.site.ledger_binding import MARK
from shared_model.bundled import SCORECARDS
from shared_model.scoring.scorecard_read import read_scorecard
from tests.builders.consortium import Consortium
from tests.e2e.browser import chromium, complaints, faults_of_access, needs_chromium, picture, site_page
from tests.e2e.deployment import START_S, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), needs_chromium]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, hospitals: dict[str, Path]) -> ClientHome:
    (SiteConfig.load(hospitals["north"]).root / MARK).unlink(missing_ok=True)
    data = enrol.Data(kind="", root=None, site_config=hospitals["north"])
    return enrol.make_home(Consortium().invitation("north"), tmp_path_factory.mktemp("cards") / "north", data)


@pytest.fixture(scope="module")
def link(home: ClientHome) -> Iterator[str]:
    with site_page(home.folder) as address:
        yield address


def test_a_card_is_changed_scored_and_saved(home: ClientHome, link: str, tmp_path: Path) -> None:
    with chromium(tmp_path, width=1400, height=1000) as browser:
        _open(browser, link)
        browser.find_element(By.CSS_SELECTOR, "section[aria-labelledby=scorecards] a").click()
        assert faults_of_access(browser) == []
        browser.find_element(By.LINK_TEXT, "head_neck").click()
        before = _score(browser, "")
        assert len(browser.find_elements(By.CSS_SELECTOR, "#by-plan tbody tr")) == 3
        assert "case" not in browser.find_element(By.ID, "preview").text
        assert faults_of_access(browser) == []
        picture(browser, "site_card")

        _type(_field(browser, 1, "points"), "90: 0, 80: 16")
        eventually(lambda: "values must rise" in _text(browser, "fault"), 60, "the fault is told")
        assert _text(browser, "fault").startswith("criterion 1, high_d95, points[2]")
        assert _field(browser, 1, "points").get_attribute("aria-invalid") == "true"
        assert _field(browser, 1, "points").get_property("value") == "90: 0, 80: 16", "what was typed is still there"
        assert faults_of_access(browser) == []

        _type(_field(browser, 1, "points"), "20: 0, 30: 16")
        changed = _score(browser, before)
        assert not _field(browser, 1, "points").get_attribute("aria-invalid")
        criteria = browser.find_elements(By.CSS_SELECTOR, "#criteria fieldset")
        remove = criteria[1].find_element(By.CSS_SELECTOR, "[data-remove]")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", remove)
        remove.click()
        browser.find_element(By.ID, "add").click()
        count = len(criteria)
        new = {"id": "body", "structure": "Body", "metric": "Max", "weight": "1", "points": "0: 0, 1: 1"}
        for name, text in new.items():
            _type(_field(browser, count, name), text)
        _score(browser, changed)
        assert "body" in _text(browser, "by-criterion")
        assert "high_d2" not in _text(browser, "by-criterion")

        _type(browser.find_element(By.NAME, "name"), "lung")
        browser.find_element(By.ID, "save").click()
        eventually(lambda: "choose another name" in _text(browser, "saved"), 60, "a card of the package stays")
        _type(browser.find_element(By.NAME, "name"), "ours")
        browser.find_element(By.ID, "save").click()
        eventually(lambda: "saved as" in _text(browser, "saved"), 60, "it is saved")
        browser.find_element(By.LINK_TEXT, "open it").click()
        assert _field(browser, count, "id").get_property("value") == "body"
        assert faults_of_access(browser) == []
        assert complaints(browser) == []

    path = home.scorecards / "ours.yaml"
    card, old = read_scorecard(path), read_scorecard(SCORECARDS / "head_neck.yaml")
    assert card.criteria[0].points == ((20.0, 0.0), (30.0, 16.0))
    assert card.criteria[1:-1] == old.criteria[2:]
    assert card.criteria[-1].label == "Body Max"
    job = align_files(path, Path("default"), SiteConfig.load(home.site_config), tmp_path / "out", AlignSettings())
    assert job.card == card, "client align takes the file as it was saved"


def test_on_a_phone_and_in_the_dark_the_editor_is_whole(link: str, tmp_path: Path) -> None:
    with chromium(tmp_path) as browser:
        size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": dark})
        _open(browser, link)
        for address in ("/cards", "/cards/bundled/swallowing_first"):
            browser.get(link.partition("/?")[0] + address)
            if address != "/cards":
                _score(browser, "")
            wide = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
            assert wide <= 0, address
            assert faults_of_access(browser) == [], address


def _open(browser: webdriver.Chrome, link: str) -> None:
    def opens() -> bool:
        browser.get(link)
        return bool(browser.find_elements(By.ID, "live"))

    eventually(opens, START_S, "the page answers")


def _text(browser: webdriver.Chrome, name: str) -> str:
    """The text of an element by id, in one step: the preview is replaced at any time."""
    script = "return (document.getElementById(arguments[0]) || {}).innerText || ''"
    return str(browser.execute_script(script, name))


def _score(browser: webdriver.Chrome, before: str) -> str:
    """Wait until all plans are scored, differently than ``before``; return the line with the mean."""

    def line() -> str:
        total = "return (document.querySelector('#preview .total') || {}).innerText || ''"
        return str(browser.execute_script(total)) if _text(browser, "scoring") == "scored" else ""

    eventually(lambda: line() not in ("", before), 240, "the plans are scored")
    return line()


def _field(browser: webdriver.Chrome, criterion: int, name: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, f"#criteria fieldset:nth-of-type({criterion}) [name={name}]")


def _type(field: WebElement, text: str) -> None:
    field.clear()
    field.send_keys(text)

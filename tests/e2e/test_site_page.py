"""The hospital's web page in a real browser: a prediction of `client predict` is looked at, also on a phone."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from client.setup import enrol
from client.site.config import SiteConfig
from client.site.ledger_binding import MARK
from shared_model.adapter.manifest import initial_vector, save_adapter
from shared_model.network.spec import ModelSpec
from tests.builders.consortium import Consortium
from tests.builders.small_study import write_small_study
from tests.e2e.browser import chromium, complaints, faults_of_access, needs_chromium
from tests.e2e.deployment import SCRIPTS, START_S, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), needs_chromium]


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory, hospitals: dict[str, Path]) -> Iterator[str]:
    """Address of the page of a site that has predicted a study."""
    folder = tmp_path_factory.mktemp("page")
    config = SiteConfig.load(hospitals["north"])
    (config.root / MARK).unlink(missing_ok=True)
    data = enrol.Data(kind="", root=None, site_config=hospitals["north"])
    home = enrol.make_home(Consortium().invitation("north"), folder / "north", data)
    spec = ModelSpec(prior="none", base="none", adapter="lora", rank=2, shape=(16, 16, 16))
    save_adapter(folder / "adapter.safetensors", spec, initial_vector(spec))
    write_small_study(folder / "study")
    flags = ["--out", folder / "dose", "--home", home.folder, "--adapter", folder / "adapter.safetensors"]
    made = subprocess.run(
        [SCRIPTS / "client", "predict", folder / "study", *flags], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    page = subprocess.Popen([SCRIPTS / "client", "console", "--home", home.folder], stdout=subprocess.PIPE, text=True)
    try:
        assert page.stdout is not None
        yield page.stdout.readline().removeprefix("console: ").strip()
    finally:
        page.terminate()
        page.wait(20)


def test_a_prediction_is_looked_at(link: str, tmp_path: Path) -> None:
    with chromium(tmp_path) as browser:
        _open(browser, link)
        assert "token" not in browser.current_url
        assert faults_of_access(browser) == []
        browser.find_element(By.CSS_SELECTOR, "section[aria-labelledby=predictions] a").click()
        assert browser.find_elements(By.CSS_SELECTOR, "svg.dvh path")
        image = browser.find_element(By.CSS_SELECTOR, ".slices img")
        eventually(lambda: image.get_property("naturalWidth"), 60, "the slice is drawn")
        before = image.get_attribute("src")
        browser.find_element(By.ID, "axial").send_keys(Keys.ARROW_RIGHT)
        eventually(lambda: image.get_attribute("src") != before, 10, "the arrow key scrolls")
        eventually(lambda: image.get_property("complete") and image.get_property("naturalWidth"), 60, "and draws")
        assert faults_of_access(browser) == []
        assert complaints(browser) == []


def test_on_a_phone_and_in_the_dark_nothing_is_cut_or_unreadable(link: str, tmp_path: Path) -> None:
    with chromium(tmp_path) as browser:
        size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": dark})
        _open(browser, link)
        first = browser.current_url
        prediction = browser.find_element(By.CSS_SELECTOR, "section[aria-labelledby=predictions] a")
        for address in (first, str(prediction.get_attribute("href"))):
            browser.get(address)
            wide = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
            assert wide <= 0, address
            assert faults_of_access(browser) == [], address


def _open(browser: webdriver.Chrome, link: str) -> None:
    def opens() -> bool:
        try:
            browser.get(link)
        except WebDriverException:
            return False
        return bool(browser.find_elements(By.ID, "live"))

    eventually(opens, START_S, "the page answers")

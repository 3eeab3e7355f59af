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

from client.adapters.align import write_curves
from client.setup import enrol
from client.site.config import SiteConfig
from client.site.home import ClientHome
from client.site.ledger_binding import MARK
from privacy.trust.membership import AdmissionRequest
from server.config.compose import compose_run
from server.config.privacy import run_terms, statistics_terms
from shared_model.adapter.manifest import initial_vector, save_adapter
from shared_model.network.spec import ModelSpec
from tests.builders.consortium import Consortium, Site
from tests.builders.small_study import write_small_study
from tests.e2e.browser import chromium, complaints, faults_of_access, needs_chromium, picture, site_page
from tests.e2e.deployment import SCRIPTS, START_S, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), needs_chromium]

HISTORY = [
    {"epoch": float(epoch), "score": score, "mae_ref5_gy": 3.0 - epoch / 20, "reward": 55.0 + score / 10, "loss": 0.3}
    for epoch, score in enumerate((71.0, 74.5, 76.0, 77.2))
]


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory, hospitals: dict[str, Path]) -> Iterator[str]:
    """Address of the page of a site that has predicted a study, is offered a plan, and has aligned its model."""
    folder = tmp_path_factory.mktemp("page")
    config = SiteConfig.load(hospitals["north"])
    (config.root / MARK).unlink(missing_ok=True)
    data = enrol.Data(kind="", root=None, site_config=hospitals["north"])
    consortium = Consortium()
    home = enrol.make_home(consortium.invitation("north"), folder / "north", data)
    _offer(consortium, home)
    aligned = home.private_adapters / "0123456789abcdef"
    aligned.mkdir(parents=True)
    write_curves(aligned, HISTORY)
    spec = ModelSpec(prior="none", base="none", adapter="lora", rank=2, shape=(16, 16, 16))
    save_adapter(folder / "adapter.safetensors", spec, initial_vector(spec))
    write_small_study(folder / "study")
    flags = ["--out", folder / "dose", "--home", home.folder, "--adapter", folder / "adapter.safetensors"]
    made = subprocess.run(
        [SCRIPTS / "client", "predict", folder / "study", *flags], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    with site_page(home.folder) as address:
        yield address


def _offer(consortium: Consortium, home: ClientHome) -> None:
    """Admit the site with a plan for it and two other hospitals, in mode shared with statistics."""
    for name in ("south", "east"):
        consortium.admission(AdmissionRequest.read(Site().request(consortium.invitation(name))))
    request = AdmissionRequest.read(home.request_file.read_bytes())
    config = compose_run(["name=first", "privacy.cohort=60", "privacy.statistics=1"], sites=3)
    counts, rounds = statistics_terms(config), run_terms(config)
    assert counts is not None
    assert rounds is not None
    terms = {"privacy": rounds.to_plain(), "statistics": counts.to_plain()}
    without_mode = {key: {k: v for k, v in of.items() if k != "mode"} for key, of in terms.items()}
    keys = {"north": request.identity.public_bytes_raw().hex(), **consortium.roster.identities()}
    plan = consortium.plan(sites=keys, mode="shared", metrics=(), least_sites=3, **without_mode)
    enrol.take_admission(home, consortium.admission(request, plan.to_signed(consortium.signer_key)))


def test_a_plan_and_the_sites_own_alignment_are_shown(link: str, tmp_path: Path) -> None:
    with chromium(tmp_path, height=1000) as browser:
        _open(browser, link)
        plan = browser.find_element(By.CSS_SELECTOR, "section[aria-labelledby=plan]")
        assert "statistics, once" in plan.text
        assert len(plan.find_elements(By.CSS_SELECTOR, "input[type=checkbox]")) == 2
        picture(browser, "site_plan")
        own = browser.find_element(By.CSS_SELECTOR, "section[aria-labelledby=alignments]")
        assert "Epoch 3 is done" in own.text
        assert len(own.find_elements(By.CSS_SELECTOR, "figure svg path")) == 4
        assert faults_of_access(browser) == []
        picture(own, "site_alignment")


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
        picture(browser, "site_prediction")
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
        # In one step: the page puts new elements in place of the old ones whenever something changes.
        script = "return document.querySelector('section[aria-labelledby=predictions] a').href"
        for address in (first, str(browser.execute_script(script))):
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

"""A real Chromium for tests of web pages. Debian's packages chromium and chromium-driver."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import axe_core_python
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement

from tests.e2e.deployment import SCRIPTS

_PROGRAM, _DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(
    _PROGRAM is None or _DRIVER is None, reason="chromium and chromedriver are not installed here"
)
# As root a browser has no sandbox of its own; and it must not call home from a machine without a network.
_ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--lang=en",
    "--no-proxy-server",
)  # fmt: skip
_SERIOUS = ("serious", "critical")


@contextmanager
def chromium(folder: Path, *, width: int = 1200, height: int = 900) -> Iterator[webdriver.Chrome]:
    """A browser with an empty profile in ``folder``; what it saves goes to ``folder/saved``."""
    options = Options()
    options.binary_location = str(_PROGRAM)
    for argument in (*_ARGUMENTS, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}"):
        options.add_argument(argument)
    options.add_experimental_option(
        "prefs", {"download.default_directory": str(folder / "saved"), "download.prompt_for_download": False}
    )
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(str(_DRIVER)))
    browser.set_script_timeout(60)
    try:
        yield browser
    finally:
        browser.quit()


def picture(shown: webdriver.Chrome | WebElement, name: str) -> None:
    """Keep a page, or a part of one, as a picture of the documents, where FEDKT3D_PICTURES names their folder."""
    folder = os.environ.get("FEDKT3D_PICTURES")
    if not folder:
        return
    if isinstance(shown, WebElement):
        # Of an element the driver takes what is in the window.
        size = shown.parent.get_window_size()
        shown.parent.set_window_size(size["width"], max(size["height"], shown.rect["height"] + 200))
        shown.parent.execute_script("arguments[0].scrollIntoView({block: 'center'})", shown)
        taken = shown.screenshot_as_png
        shown.parent.set_window_size(size["width"], size["height"])
    else:
        taken = shown.get_screenshot_as_png()
    # 256 colours are enough for pages, and a third of the bytes.
    with Image.open(io.BytesIO(taken)) as image:
        image.convert("RGB").quantize(256).save(Path(folder) / f"{name}.png", optimize=True)


def faults_of_access(browser: webdriver.Chrome) -> list[str]:
    """What axe finds serious or critical on the page (WCAG: names, contrast, structure)."""
    source = Path(axe_core_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
    # By the driver and not as a script of the page, whose policy would refuse it.
    browser.execute_script(source)
    found: dict[str, Any] = browser.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    assert found["passes"], "axe looked at nothing"
    return [
        f"{rule['id']}: {node['html'][:200]}"
        for rule in found["violations"]
        if rule["impact"] in _SERIOUS
        for node in rule["nodes"]
    ]


def complaints(browser: webdriver.Chrome) -> list[str]:
    """Errors in the browser's log: scripts that failed, what the page's policy refused."""
    return [str(entry["message"]) for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


@contextmanager
def site_page(home: Path) -> Iterator[str]:
    """The address, with its token, of a hospital's page that `client console` serves meanwhile."""
    page = subprocess.Popen([SCRIPTS / "client", "console", "--home", home], stdout=subprocess.PIPE, text=True)
    try:
        assert page.stdout is not None
        yield page.stdout.readline().removeprefix("console: ").strip()
    finally:
        page.terminate()
        page.wait(20)

"""The coordinator's page of a large run in a real browser: first paint, updates, memory.

``python -m simulations.ratios.console_page [--sites 100] [--rounds 1000] [--updates 10] [--json]``. A coordinator's
folder with a run of so many rounds is made up; the console is a process of its own, as in a deployment. First paint: of
the first page that a new console shows, and then of the run's page. An update: from a question for the changed part,
after one more round, until the browser has drawn it; the page itself asks every second. Memory: the console's peak.
Needs selenium, chromium and chromedriver.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ed25519

from privacy.flower.processes import LOOPBACK, free_loopback_port
from privacy.trust import certificates
from privacy.trust.public_log import RoundEntry
from server.config.compose import compose_run
from server.console.serve import Address
from server.deployment.home import ServerHome, create
from server.record.events import Event, EventLog
from server.runs import index as runs
from shared_model.core.errors import FedKT3DError
from shared_model.core.files import write_json
from simulations.benchmarks.printing import print_numbers

NAME = "large"
MOST_ROUNDS = 1_000_000  # the run that is made up is still at work
_START_S = 60.0
# Asks for the changed part as the page does, shows it as the page does, and waits until it is drawn.
_UPDATE = """
const [run, done] = arguments;
(async () => {
  const began = performance.now();
  const reader = (await fetch("/live?run=" + run)).body.getReader(), decoder = new TextDecoder();
  let text = "";
  while (!text.includes("\\n\\n")) { text += decoder.decode((await reader.read()).value, { stream: true }); }
  const live = document.getElementById("live");
  live.innerHTML = JSON.parse(text.slice(5, text.indexOf("\\n\\n")));
  live.getBoundingClientRect();
  requestAnimationFrame(() => setTimeout(() => {
    reader.cancel(); done([performance.now() - began, live.textContent]);
  }));
})();
"""
_PAINT = """
const done = arguments[0];
const first = () => performance.getEntriesByName("first-contentful-paint")[0];
const look = () => first() ? done(first().startTime) : setTimeout(look, 20);
look();
"""


def make_home(folder: Path, sites: int, rounds: int) -> ServerHome:
    """Make up a coordinator with ``sites`` admitted sites and a run of ``rounds`` rounds, in its files and its log."""
    home = create("large", folder, LOOPBACK, 9092, 9093, [])
    authority, authority_key = home.ca_certificate.read_bytes(), home.ca_key.read_bytes()
    names = [f"hospital-{number}" for number in range(sites)]
    for name in names:
        key = ed25519.Ed25519PrivateKey.generate().public_key()
        path = home.site_certificate(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(certificates.issue_site_certificate(authority_key, authority, name, key))
    write_json(home.sites_file, {name: {"node_id": str(number)} for number, name in enumerate(names)})
    config = compose_run([f"name={NAME}", "privacy.mode=none", f"rounds.count={MOST_ROUNDS}"], sites)
    out = runs.default_out(home, NAME)
    out.mkdir(parents=True)
    runs.remember(home, "1", config, out)
    with (out / runs.EVENTS).open("w") as file:
        for name in names:
            file.write(_line(out, Event(kind="site_joined", round=1, site=name, detail="20 patients")))
        for number in range(1, rounds + 1):
            file.writelines(_line(out, event) for event in round_events(names, number))
    _log_rounds(home, names, rounds)
    return home


def round_events(names: list[str], number: int) -> Iterator[Event]:
    """One round's events; each tenth drops a site, and is scored."""
    yield Event(kind="round_started", round=number, sites=len(names))
    for place, name in enumerate(names):
        if number % 10 == 0 and place == number // 10 % len(names):
            yield Event(kind="site_dropped", round=number, site=name, reason="timeout")
        else:
            yield Event(kind="site_done", round=number, site=name)
    loss = {"loss": 1.0 / number, "seconds": 30.0}
    yield Event(kind="round_done", round=number, sites=len(names), metrics=loss, wire_bytes=10**9, wall_s=60.0)
    if number % 10 == 0:
        yield Event(kind="evaluated", round=number, metrics={"dose_score_gy": 4.0 - number / 1e4, "dvh_score_gy": 3.0})


def _line(out: Path, event: Event) -> str:
    """The line that the run's own log writes of an event."""
    lines: list[str] = []

    class Caught(EventLog):
        """Keeps the line instead of opening the file once for each."""

        def _write(self, text: str) -> None:
            lines.append(text)

    Caught(out / "nowhere", lambda _: None)(replace(event, rounds=MOST_ROUNDS))
    return lines[0]


def _log_rounds(home: ServerHome, names: list[str], rounds: int) -> None:
    """What the coordinator's log holds of so many rounds."""
    log, some = home.public_log(), "a" * 64
    for number in range(1, rounds + 1):
        entry = RoundEntry(run="1" * 32, round=number, attempt=1, sites=tuple(names), before=some, after=some, sum=some)
        plain = entry.to_plain()
        log.add(plain.pop("act"), **plain)


@contextmanager
def console(home: ServerHome) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Serve the home's console in a process of its own; yields the link that opens it, and the process."""
    address = Address(host=LOOPBACK, port=free_loopback_port())
    command = [sys.executable, "-m", "server.console.serve", str(home.folder), address.host, str(address.port)]
    process = subprocess.Popen(command)
    try:
        end = time.monotonic() + _START_S
        while True:
            try:
                httpx.get(f"http://{LOOPBACK}:{address.port}/", timeout=5.0, trust_env=False)
                break
            except httpx.HTTPError as error:
                if process.poll() is not None or time.monotonic() > end:
                    raise FedKT3DError("the console did not start") from error
                time.sleep(0.1)
        yield address.link(home), process
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def chromium(folder: Path) -> Iterator[Any]:
    """A headless Chromium with an empty profile."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={folder}")
    browser = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    try:
        browser.set_script_timeout(60)
        yield browser
    finally:
        browser.quit()


def measure(sites: int, rounds: int, updates: int) -> dict[str, float]:
    """Return first paint and update (s), memory (MB), and the size of the run's events (MB)."""
    with tempfile.TemporaryDirectory() as made:
        home = make_home(Path(made) / "home", sites, rounds)
        events = runs.default_out(home, NAME) / runs.EVENTS
        size_mb = events.stat().st_size / 1e6
        with chromium(Path(made) / "profile") as browser, console(home) as (link, process):
            browser.get("about:blank")
            browser.get(link)
            paints = [browser.execute_async_script(_PAINT)]
            browser.get(f"{link.split('?')[0]}runs/{NAME}")
            paints.append(browser.execute_async_script(_PAINT))
            seconds = []
            for number in range(rounds + 1, rounds + 1 + updates):
                with events.open("a") as file:
                    names = [f"hospital-{place}" for place in range(sites)]
                    file.writelines(_line(events.parent, event) for event in round_events(names, number))
                took_ms, shown = browser.execute_async_script(_UPDATE, NAME)
                if f"{number} of {MOST_ROUNDS}" not in " ".join(shown.split()):
                    raise FedKT3DError(f"the update after round {number} does not show it")
                seconds.append(took_ms / 1e3)
            return {
                "first_paint_s": max(paints) / 1e3,
                "update_s": statistics.median(seconds),
                "longest_update_s": max(seconds),
                "memory_mb": _peak_mb(process.pid),
                "events_mb": size_mb,
            }


def _peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = measure(asked.sites, asked.rounds, asked.updates)
    print_numbers(f"console: {asked.sites} sites, {asked.rounds} rounds", found, as_json=asked.json)


if __name__ == "__main__":
    main()

"""A deployment on loopback with real processes, for the end-to-end tests; it leaves no process behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from client.site.config import SiteConfig
from client.site.ledger_binding import MARK
from privacy.flower.processes import free_loopback_port

SCRIPTS = Path(sysconfig.get_path("scripts"))
START_S = 120.0


def eventually(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Return the condition's first true value; AssertionError that says `what` when there is none in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.2)
    raise AssertionError(f"not in {seconds:.0f} s: {what}")


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def change_policy(home: Path, before: str, after: str) -> None:
    """Edit the policy of the site in `home`."""
    policy = home / "policy.yaml"
    text = policy.read_text()
    assert before in text, before
    policy.write_text(text.replace(before, after))


class Deployment:
    """One coordinator and its sites below `folder`, driven by the console scripts alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_loopback_port()
        self.control_port = free_loopback_port()
        self.home = folder / "coordinator"
        self._started: list[tuple[subprocess.Popen[bytes], Path]] = []
        # Sites say in their configuration how many threads they train with; that has to win over this.
        self._environment = {**os.environ, "OMP_NUM_THREADS": "2"}

    @property
    def ca(self) -> Path:
        return self.home / "ca" / "ca.crt"

    def site(self, name: str) -> Path:
        """Home of the site called `name`."""
        return self.folder / f"site-{name}"

    def command(self, *arguments: str | Path, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a console script to its end."""
        program, *rest = (str(argument) for argument in arguments)
        return subprocess.run(
            [str(SCRIPTS / program), *rest],
            env=self._environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def must(self, *arguments: str | Path, timeout_s: float = 120) -> str:
        """Run a console script that has to succeed; its standard output."""
        result = self.command(*arguments, timeout_s=timeout_s)
        assert result.returncode == 0, f"{arguments}: exit {result.returncode}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def spawn(self, program: str, home: Path, *, console: bool = False) -> subprocess.Popen[bytes]:
        """Start `server start` or `client start`, with its web page only where that is asked for."""
        flags = [] if console else ["--no-console"]
        with (self.folder / f"{home.name}.out").open("ab") as out:
            process = subprocess.Popen(
                [str(SCRIPTS / program), "start", "--home", str(home), *flags],
                env=self._environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._started.append((process, home))
        return process

    def start_coordinator(self, *, console: bool = False) -> subprocess.Popen[bytes]:
        """Make the coordinator when there is none, start it, and wait until it is ready."""
        if not self.home.exists():
            ports = ("--port", str(self.port), "--control-port", str(self.control_port))
            self.must("server", "init", "consortium", "--home", self.home, *ports)
        process = self.spawn("server", self.home, console=console)
        state = self.home / "state" / "start.json"
        eventually(lambda: read(state).get("ready"), START_S, "the coordinator is ready")
        return process

    def make_site(self, name: str, site_config: Path, mode: str = "none") -> Path:
        """`server invite` and `client init`; the request. Any run may be tried: it needs no plan and no compared keys.

        Most tests are about other things than privacy: their sites take part in mode none, and say so.
        """
        invitation = self.folder / f"{name}.invitation"
        self.must("server", "invite", name, "--home", self.home, "--out", invitation)
        # Several deployments of the tests share data; each stands for a world of its own.
        (SiteConfig.load(site_config).root / MARK).unlink(missing_ok=True)
        made = self.must(
            "client", "init", invitation, "--home", self.site(name), "--site-config", site_config, "--json"
        )
        change_policy(self.site(name), "require_plan: true", "require_plan: false")
        change_policy(self.site(name), "known_peers: true", "known_peers: false")
        change_policy(self.site(name), "modes: [shared]", f"modes: [{mode}]")
        return Path(json.loads(made)["request"])

    def admit(self, name: str, request: Path) -> None:
        """`server admit` and `client join`."""
        admission = self.folder / f"{name}.admission"
        self.must("server", "admit", request, "--home", self.home, "--out", admission)
        self.must("client", "join", admission, "--home", self.site(name))

    def compare_keys(self, *names: str) -> None:
        """`client trust` between all sites, each with every other, as people would over the telephone."""
        shown = {n: json.loads(self.must("client", "trust", "show", "--home", self.site(n), "--json")) for n in names}
        for name in names:
            for other in set(names) - {name}:
                self.must("client", "trust", "add", other, shown[other]["digits"], "--home", self.site(name))

    def join(self, name: str, site_config: Path) -> subprocess.Popen[bytes]:
        """Make a site, have it admitted and start it."""
        self.admit(name, self.make_site(name, site_config))
        return self.spawn("client", self.site(name))

    def status(self, name: str) -> dict[str, Any]:
        """`client status --json`."""
        return dict(json.loads(self.must("client", "status", "--home", self.site(name), "--json")))

    def connected(self, name: str) -> None:
        """Wait until a site is connected."""
        state = self.site(name) / "state" / "supernode.json"
        eventually(lambda: read(state).get("connection") == "connected", START_S, f"{name} is connected")

    def run(self, *overrides: str, out: Path | None = None, timeout_s: float = 200) -> dict[str, Any]:
        """`server run --json` that has to succeed."""
        where = ("--out", out) if out else ()
        return dict(
            json.loads(
                self.must("server", "run", "--home", self.home, "--json", *where, *overrides, timeout_s=timeout_s)
            )
        )

    def children(self, home: Path) -> dict[str, int]:
        """Process ids of what `start` keeps alive for a home."""
        name = "start.json"
        return {
            key: value["pid"]
            for key, value in read(home / "state" / name).items()
            if isinstance(value, dict) and value.get("pid")
        }

    def close(self) -> None:
        """End everything that was started here, gently first; also what a killed supervisor may have left."""
        groups = [pid for _, home in self._started for pid in self.children(home).values()]
        for process, _ in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process, _ in self._started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                groups.append(process.pid)
        for group in groups:
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for process, _ in self._started:
            process.wait()


def read(path: Path) -> dict[str, Any]:
    """JSON object at `path`, or an empty one."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}

"""The federation that is soaked: a coordinator and its sites by their public commands, over TLS on loopback.

The patients are phantoms. Each site reaches the coordinator through a relay of its own, so that its line can be cut.
The run is the default mode (patient-level privacy) with the 64 numbers of the base: each round is charged, and short.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sysconfig
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simulations.phantom.hospitals import STYLES, write_hospital
from simulations.soak.commands import Commands
from simulations.soak.relay import LOOPBACK, Relay
from simulations.soak.units import MARK, Supervisor, Unit

SITES = 5
RUN = "soak"
START_S = 180.0
PATIENTS = 2  # one to train on, one to validate
SETTINGS = (
    f"name={RUN}",
    "privacy.z=120",
    f"privacy.cohort={SITES * (PATIENTS - 1)}",
    "privacy.views=1",
    "model.shape=[16,16,16]",
    "rounds.public_step=0",
    "rounds.public_worst=0",
    "rounds.deadline_s=60",
    "rounds.wait_for_sites_s=600",
    "rounds.attempts=10",
)


class SoakError(Exception):
    """The harness could not go on; the text says where."""


class Events:
    """What a run has told so far (events.jsonl), read bit by bit."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0
        self.all: list[dict[str, Any]] = []

    def look(self) -> list[dict[str, Any]]:
        """Return all events up to now."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read += len(line)
                    if line.strip():
                        self.all.append(json.loads(line))
        return self.all


class Federation:
    """A coordinator, its sites and one run below ``folder``. ``resumed``: how often a person went on with the run."""

    def __init__(self, folder: Path, rounds: int, seed: int) -> None:
        self.folder, self.rounds, self.seed = folder.resolve(), rounds, seed
        self.mark = uuid.uuid4().hex[:12]
        self.names = [f"site{number}" for number in range(1, SITES + 1)]
        self.home = self.folder / "coordinator"
        self.events = Events(self.home / "runs" / RUN / "events.jsonl")
        self.relays: dict[str, Relay] = {}
        self.supervisor = Supervisor(self.mark, self._follow)
        self.resumed = 0
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.commands = Commands({**self._environment, MARK: f"{self.mark}.command"}, self.folder)
        self._run: subprocess.Popen[bytes] | None = None
        self._ports = _free_ports(2)
        self.over = False

    def site(self, name: str) -> Path:
        """Home of a site."""
        return self.folder / name

    def unit(self, name: str) -> Unit:
        """The unit of a site, or of the coordinator."""
        return self.supervisor.units[name]

    def command(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return self.commands.run(*map(str, arguments))

    def must(self, *arguments: str | Path) -> str:
        """Run a command that has to succeed; its standard output. SoakError otherwise."""
        done = self.command(*arguments)
        if done.returncode:
            raise SoakError(f"{' '.join(map(str, arguments))}: exit {done.returncode}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def set_up(self) -> None:
        """From an empty folder to a run that is under way. Keys are not compared: that is for people."""
        port, control = self._ports
        self.must("server", "init", RUN, "--home", self.home, "--port", str(port), "--control-port", str(control))
        self.add_unit("coordinator", "server", self.home)
        self.until(lambda: read_json(self.home / "state" / "start.json").get("ready"), START_S, "the coordinator")
        for number, name in enumerate(self.names):
            self._make_site(name, number)
        settings = (*SETTINGS, f"rounds.count={self.rounds}", f"seed={self.seed}")
        self.must("server", "plan", "--home", self.home, *settings)
        for name in self.names:
            self.must("client", "plan", "--home", self.site(name), "--accept", self.home / "plan.json")
            self.add_unit(name, "client", self.site(name))
        self._submit(*settings)

    def _make_site(self, name: str, number: int) -> None:
        data, invitation = self.folder / "hospitals" / name, self.folder / f"{name}.invitation"
        style = list(STYLES.values())[number % len(STYLES)]
        write_hospital(data, style, PATIENTS, 100 * self.seed + number, site=name)
        relay = self.relays[name] = Relay(self._ports[0])
        where = f"{LOOPBACK}:{relay.port}"
        self.must("server", "invite", name, "--home", self.home, "--out", invitation, "--address", where)
        home, yaml = self.site(name), data / "site.yaml"
        made = self.must("client", "init", invitation, "--home", home, "--site-config", yaml, "--json")
        replace_in(home / "site.yaml", "threads: 0", "threads: 1")
        replace_in(home / "policy.yaml", "known_peers: true", "known_peers: false")
        admission = self.folder / f"{name}.admission"
        self.must("server", "admit", json.loads(made)["request"], "--home", self.home, "--out", admission)
        self.must("client", "join", admission, "--home", home)

    def add_unit(self, name: str, program: str, home: Path) -> Unit:
        """Have `PROGRAM start` kept alive for a home."""
        command = [_script(program), "start", "--home", str(home)]
        command += ["--no-console"]
        unit = self.supervisor.units[name] = Unit(name, command, self.folder, self.mark, self._environment)
        unit.start()
        return unit

    def remove_unit(self, unit: Unit) -> None:
        """Stop a unit for good."""
        del self.supervisor.units[unit.name]
        unit.stop()

    def _submit(self, *arguments: str) -> None:
        with (self.folder / "run.out").open("ab") as out:
            self._run = subprocess.Popen(
                [_script("server"), "run", "--home", str(self.home), *arguments],
                env={**self._environment, MARK: f"{self.mark}.run"},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def _follow(self) -> None:
        """Note the run's end; where the command ended before it, do what a person would do, and count it."""
        if self._run is None or self.over or self._run.poll() is None:
            return
        if self._run.returncode == 0:
            self.over = True
            return
        self.resumed += 1
        self._submit("--resume")

    def until(self, condition: Callable[[], Any], seconds: float, what: str = "") -> bool:
        """Wait until something holds, or the run is over; False when it does not in time (SoakError if named)."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.supervisor.error is not None:
                raise SoakError("the supervisor ended") from self.supervisor.error
            if condition():
                return True
            if self.over:
                return False
            time.sleep(0.3)
        if what:
            raise SoakError(f"not in {seconds:.0f} s: {what}")
        return False

    def rounds_done(self) -> int:
        """Return the last finished round."""
        return max((e["round"] for e in self.events.look() if e["kind"] == "round_done"), default=0)

    def answered(self, name: str, since: float) -> bool:
        """Whether a site has answered after ``since`` (Unix time), or any round was done if it is no site."""
        kind, whose = ("site_done", name) if name in self.names else ("round_done", "")
        return any(
            e["kind"] == kind and e["time"] > since and e.get("site", "") == whose for e in reversed(self.events.look())
        )

    def said_of(self, name: str, since: float) -> list[str]:
        """Return why a site was left out after ``since``, each reason once."""
        found = [
            f"{e.get('reason', '')}: {e.get('detail', '')}".strip(": ")
            for e in self.events.look()
            if e["kind"] == "site_dropped" and e["time"] > since and e.get("site") == name
        ]
        return list(dict.fromkeys(found))

    def process(self, owner: str, part: str) -> int | None:
        """Process id of a part of a site or of the coordinator; None while it is away."""
        home = self.home if owner == "coordinator" else self.site(owner)
        record = read_json(home / "state" / "start.json").get(part)
        pid = record.get("pid") if isinstance(record, dict) else None
        return pid if isinstance(pid, int) and alive(pid) else None

    def disk_mb(self) -> dict[str, float]:
        """Bytes on disk of each home, in 10^6; `logs` of all of them again on their own."""
        sizes = {name: _size_mb(self.site(name)) for name in self.names} | {"coordinator": _size_mb(self.home)}
        sizes["logs"] = sum(_size_mb(home / "logs") for home in [self.home, *map(self.site, self.names)])
        return sizes

    def report(self) -> dict[str, Any]:
        """Return what the run reports of itself; empty before its end."""
        return read_json(self.home / "runs" / RUN / "federation.json")


def replace_in(path: Path, before: str, after: str) -> None:
    """Edit a file, as a person does; SoakError when the words are not there."""
    text = path.read_text(encoding="utf-8")
    if before not in text:
        raise SoakError(f"{path.name}: does not say {before!r}")
    path.write_text(text.replace(before, after), encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """JSON object at ``path``, or an empty one."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _size_mb(folder: Path) -> float:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size
        except OSError:
            continue
    return total / 1e6


def _script(name: str) -> str:
    path = Path(sysconfig.get_path("scripts")) / name
    return str(path) if path.exists() else shutil.which(name) or name


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()

"""A round over real processes and TLS, ours beside stock Flower's in one run: 20 MB, two sites, nothing trained.

``python -m simulations.benchmarks.deployed_round [--megabytes 20] [--rounds 3] [--ours] [--json]``. Both sides use the
same certificates, node authentication and SQLite. Goal: at most 0.4 of stock's wall time a round. Memory is resident
set size after the run: of the idle processes of one site, and of the SuperLink with the process that starts its apps.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from client.setup import enrol
from client.site.config import SiteConfig
from client.site.home import ClientHome
from privacy.flower.processes import (
    LOOPBACK,
    Child,
    closed_environment,
    flower_program,
    free_loopback_port,
    module_command,
)
from privacy.trust import identity
from privacy.trust.membership import AdmissionRequest
from server.consortium.admission import Admissions
from server.deployment.control import Control
from server.deployment.home import CONNECTION, ServerHome, create
from server.deployment.start import is_ready
from server.runs.bundle import write_run_config
from shared_model.core.files import PRIVATE, PUBLIC, create_file
from simulations.benchmarks.deployed_apps import SITES, STOCK
from simulations.benchmarks.printing import print_numbers

GOAL = 0.4
_PYPROJECT = """\
[project]
name = "bench"
version = "1.0.0"
description = "x"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "bench"
[tool.flwr.app.components]
serverapp = "{server}"
clientapp = "{client}"
[tool.flwr.app.config]
config = ""
config-sha256 = ""
out = ""
home = ""
"""
APPS = "simulations.benchmarks.deployed_apps"


def ours(folder: Path, stack: ExitStack) -> tuple[ServerHome, list[Child], list[Child]]:
    """Start a coordinator and its sites as `server start` and `client start` do; (home, coordinator, one site)."""
    home = create("bench", folder / "coordinator", LOOPBACK, free_loopback_port(), free_loopback_port(), [])
    coordinator = Child(
        "coordinator",
        [flower_program("server"), "start", "--no-console", "--home", str(home.folder)],
        closed_environment(folder),
        folder / "coordinator.log",
        folder,
    )
    _start(stack, coordinator)
    _until_ready(home)
    site: list[Child] = []
    for number in range(SITES):
        joined = _join(home, folder, f"site{number}")
        address = f"{LOOPBACK}:{free_loopback_port()}"
        commands = {
            "supernode": module_command("client.node.supernode", str(joined.folder), address),
            "executor": module_command(APPS, str(joined.folder), address),
        }
        site = [
            Child(name, command, joined.environment(), folder / f"site{number}-{name}.log", folder)
            for name, command in commands.items()
        ]
        for child in site:
            _start(stack, child)
    return home, [coordinator], site


def _join(home: ServerHome, folder: Path, name: str) -> ClientHome:
    """Make a site and admit it. It has no data, because nothing is trained."""
    config = SiteConfig(site=name, data="cases", root=folder, train=("a",), validation=("b",))
    config.save(folder / f"{name}.yaml")
    admissions = Admissions(home)
    invitation = folder / f"{name}.invitation"
    invitation.write_bytes(admissions.invite(name, days=1).to_json())
    data = enrol.Data(kind="cases", root=None, site_config=folder / f"{name}.yaml")
    site = enrol.create(invitation, folder / name, data)
    admission = folder / f"{name}.admission"
    admission.write_bytes(admissions.admit(AdmissionRequest.read(site.request_file.read_bytes()), home.ca_key).file)
    enrol.join(site, admission)
    return site


def stock(folder: Path, stack: ExitStack) -> tuple[ServerHome, list[Child], list[Child]]:
    """Start flower-superlink and flower-supernode as Flower's documentation does."""
    port = free_loopback_port()
    home = create("bench", folder / "coordinator", LOOPBACK, free_loopback_port(), port, [])
    tls = home.folder / "tls"
    command = [
        *(flower_program("flower-superlink"), "--ssl-ca-certfile", str(home.ca_certificate)),
        *("--ssl-certfile", str(tls / "server.crt"), "--ssl-keyfile", str(tls / "server.key")),
        *("--enable-supernode-auth", "--host", LOOPBACK, "--port", str(port)),
        *("--database", str(folder / "superlink.db")),
    ]
    superlink = Child("superlink", command, closed_environment(folder), folder / "superlink.log", folder)
    _start(stack, superlink)
    _until_ready(home)
    home.lock.touch()
    lock = stack.enter_context(home.lock.open("a"))  # Control asks for a coordinator of ours
    _hold(lock.fileno())
    connection = [
        f'[superlink]\ndefault = "{CONNECTION}"',
        f'[superlink.{CONNECTION}]\naddress = "{LOOPBACK}:{port}"',
        f"root-certificates = {json.dumps(str(home.ca_certificate))}",
    ]
    (home.folder / "flwr" / "control" / "config.toml").write_text("\n".join(connection) + "\n")
    site: list[Child] = []
    for number in range(SITES):
        name = f"site{number}"
        key = _register(Control(home), folder / name)
        command = [flower_program("flower-supernode"), *_supernode(home, key, f"{LOOPBACK}:{free_loopback_port()}")]
        site = [Child(name, command, closed_environment(folder / name), folder / f"{name}.log", folder)]
        _start(stack, site[0])
    return home, [superlink], site


def _hold(descriptor: int) -> None:
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX)


def _start(stack: ExitStack, child: Child) -> None:
    child.tick()
    stack.callback(child.stop)


def _until_ready(home: ServerHome) -> None:
    end = time.monotonic() + 120
    while not is_ready(home):
        if time.monotonic() > end:
            raise RuntimeError("the SuperLink did not start; is the machine out of memory?")
        time.sleep(0.3)


def _register(control: Control, folder: Path) -> Path:
    """Make a node key in `folder`, register it, and return its path."""
    folder.mkdir()
    private, public = identity.new_node_key()
    create_file(folder / "key", private, PRIVATE)
    create_file(folder / "key.pub", public, PUBLIC)
    control.register(folder / "key.pub")
    return folder / "key"


def _supernode(home: ServerHome, key: Path, address: str) -> list[str]:
    return [
        *("--superlink", home.control_address, "--root-certificates", str(home.ca_certificate)),
        *("--auth-supernode-private-key", str(key), "--port", address.rpartition(":")[2]),
    ]


def run(home: ServerHome, folder: Path, serverapp: str, clientapp: str, values: int, rounds: int) -> list[float]:
    """Run the rounds and return the seconds that each took."""
    bundle, out = folder / "bundle", folder / "out"
    bundle.mkdir()
    out.mkdir()
    (bundle / "pyproject.toml").write_text(_PYPROJECT.format(server=serverapp, client=clientapp))
    if "stock" in serverapp:
        (bundle / "stock_apps.py").write_text(STOCK)
    control = Control(home)
    settings = write_run_config(folder / "run.toml", config=str(values), sha256=str(rounds), out=out, home=home.folder)
    run_id = control.submit(bundle, settings)
    while not (status := control.run_status(run_id)).finished:
        time.sleep(3.0)
    if not status.completed:
        raise RuntimeError(f"{serverapp}: {status.details}")
    times = json.loads((out / "times.json").read_text())
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def resident_mb(children: list[Child]) -> float:
    """Resident memory of processes and all their descendants, in 10^6 bytes."""
    table = subprocess.run(["ps", "-eo", "pid,ppid,rss"], capture_output=True, text=True, check=True).stdout
    rows = [tuple(map(int, line.split())) for line in table.splitlines()[1:]]
    family = {child.pid for child in children}
    while grown := {pid for pid, parent, _ in rows if parent in family} - family:
        family |= grown
    return sum(rss for pid, _, rss in rows if pid in family) * 1024 / 1e6


def measure(megabytes: float, rounds: int, *, with_stock: bool) -> dict[str, float]:
    """Run both deployments one after the other and return what they took."""
    values = int(megabytes * 1e6 / 4)
    numbers: dict[str, float] = {"vector_mb": megabytes, "sites": SITES, "rounds": rounds}
    apps = {"ours": (ours, f"{APPS}:server_app", f"{APPS}:app")}
    if with_stock:
        apps["stock"] = (stock, "stock_apps:server", "stock_apps:client")
    for name, (start, serverapp, clientapp) in apps.items():
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            home, coordinator, site = start(Path(folder), stack)
            seconds = run(home, Path(folder), serverapp, clientapp, values, rounds)
            numbers[f"{name}_round_s"] = round(statistics.median(seconds), 2)
            numbers[f"{name}_site_mb"] = round(resident_mb(site))
            numbers[f"{name}_coordinator_mb"] = round(resident_mb(coordinator))
    if with_stock:
        numbers["ratio"] = round(numbers["ours_round_s"] / numbers["stock_round_s"], 3)
        numbers["goal_ratio"] = GOAL
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ours", action="store_true", help="Measure only our own round, not stock Flower's.")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args()
    numbers = measure(args.megabytes, args.rounds, with_stock=not args.ours)
    print_numbers("A deployed round, ours and stock Flower's", numbers, as_json=args.json)


if __name__ == "__main__":
    main()

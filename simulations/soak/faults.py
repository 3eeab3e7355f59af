"""The faults of the soak: what is done, who is expected to act on it, and what a person then does.

Each fault is one function. It strikes, waits as long as the fault lasts, does what a person would have to do, and
returns; the harness then waits for the victim to answer again. Nothing here reaches into a process but by signals.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from simulations.soak.federation import Federation, read_json

NOBODY, SITE, COORDINATOR, BOTH = "nobody", "site", "coordinator", "site and coordinator"
HANG_S = 600.0  # the longest that the watchdogs may take: 60, 75 or 120 s on an idle machine
ROUNDS_S = 900.0  # the longest wait for a round
SMALL_DISK_MB = 24


@dataclass(frozen=True, kw_only=True)
class DeployedFault:
    """``act`` strikes a victim (a site, or the coordinator) and returns once what a person has to do is done."""

    name: str
    who: str
    act: Callable[[Federation, str, random.Random], None]
    of_coordinator: bool = False
    victim: str = ""  # a site that this fault needs; empty: any


def _kill(part: str) -> Callable[[Federation, str, random.Random], None]:
    """kill -9 of one process that `start` keeps alive."""

    def act(federation: Federation, victim: str, _: random.Random) -> None:
        pid = federation.process(victim, part)
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    return act


def _kill_unit(federation: Federation, victim: str, _: random.Random) -> None:
    """kill -9 of `start` itself; systemd ends what it leaves, and starts it again."""
    pid = federation.unit(victim).pid
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


def _hang(part: str) -> Callable[[Federation, str, random.Random], None]:
    """SIGSTOP, until the watchdog has started the process anew; continued by hand only when it did not."""

    def act(federation: Federation, victim: str, _: random.Random) -> None:
        pid = federation.process(victim, part)
        if pid is None:
            return
        os.kill(pid, signal.SIGSTOP)
        federation.until(lambda: federation.process(victim, part) != pid, HANG_S)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    return act


def _cut(federation: Federation, victim: str, rng: random.Random) -> None:
    """The line is dead for 5 to 45 s."""
    federation.relays[victim].cut()
    try:
        federation.until(lambda: False, rng.uniform(5.0, 45.0))
    finally:
        federation.relays[victim].restore()


def _copy(federation: Federation, victim: str, _: random.Random) -> None:
    """A copy of the home runs beside the original, until a round was done; its staff stops the copy."""
    copy = federation.folder / f"{victim}-copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(federation.site(victim), copy, ignore=shutil.ignore_patterns("*.lock", "*.beat"))
    unit = federation.add_unit(f"{victim}-copy", "client", copy)
    _two_rounds(federation, most_s=180.0)
    federation.remove_unit(unit)
    shutil.rmtree(copy, ignore_errors=True)


def _full_disk(federation: Federation, victim: str, _: random.Random) -> None:
    """The disk of the site's home is full until two rounds were done; then its staff makes room, and starts it."""
    filler = federation.site(victim) / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 65536)
    with suppress(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(b"\0")
    _two_rounds(federation, most_s=180.0)
    filler.unlink(missing_ok=True)
    _start_if_down(federation, victim)


def _older_backup(federation: Federation, victim: str, _: random.Random) -> None:
    """The site's machine is lost and restored from an older backup; its staff then puts back the newest ledger."""
    home, lost = federation.site(victim), federation.folder / f"{victim}-lost"
    archive = federation.folder / f"{victim}.tar"
    archive.unlink(missing_ok=True)
    shutil.rmtree(lost, ignore_errors=True)
    federation.must("client", "backup", archive, "--home", home, "--with-keys")
    # A charge whose answer was lost on the way is known to nobody, and no release belongs to it: wait for one that is.
    known = {"", *_records(home)}
    federation.until(lambda: _shown(federation, victim) not in known, ROUNDS_S, f"{victim} was not charged anew")
    federation.unit(victim).stop()
    home.rename(lost)
    federation.must("client", "restore", archive, "--home", home)
    since = time.time()
    federation.unit(victim).start()
    # A row that has not seen the refusal would say nothing of the older ledger.
    told = f"{victim} was not seen to refuse with its older ledger"
    federation.until(lambda: "older" in " ".join(federation.said_of(victim, since)), ROUNDS_S, told)
    federation.unit(victim).stop()
    shutil.rmtree(home)
    federation.must("client", "restore", archive, "--home", home, "--ledger", lost / "ledger")
    federation.unit(victim).start()
    shutil.rmtree(lost)


def _ended_certificate(federation: Federation, victim: str, _: random.Random) -> None:
    """The site's certificate ends while it runs, and it restarts; the coordinator renews it, its staff joins again."""
    home, unit = federation.site(victim), federation.unit(victim)
    _end_certificate(home / "trust" / "site.crt", federation.home / "ca")
    pid = unit.pid
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    federation.until(lambda: unit.failed, 120.0)
    admission = federation.folder / f"{victim}.admission"
    federation.must("server", "renew", victim, "--home", federation.home, "--out", admission)
    federation.must("client", "join", admission, "--home", home)
    _start_if_down(federation, victim)


def _end_certificate(path: Path, ca: Path) -> None:
    """Replace a certificate by one of the same authority for the same key that has just ended."""
    old = x509.load_pem_x509_certificate(path.read_bytes())
    key = load_pem_private_key((ca / "ca.key").read_bytes(), None)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(old.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(old.not_valid_before_utc - timedelta(days=1))
        .not_valid_after(now - timedelta(minutes=1))
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else SHA256()
    made = builder.sign(key, algorithm)  # type: ignore[arg-type]
    path.write_bytes(made.public_bytes(Encoding.PEM))


def _two_rounds(federation: Federation, most_s: float) -> None:
    then = federation.rounds_done()
    federation.until(lambda: federation.rounds_done() >= then + 2, most_s)


def _start_if_down(federation: Federation, victim: str) -> None:
    unit = federation.unit(victim)
    if unit.pid is None:
        unit.start()


def _records(home: Path) -> set[str]:
    """Hashes of the ledger's records, without a line that is being written."""
    path = home / "ledger" / "ledger.jsonl"
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0] if path.exists() else ""
    return {json.loads(line)["hash"] for line in whole.splitlines()}


def _shown(federation: Federation, site: str) -> str:
    """Hash of the newest record of a site that the coordinator has seen; empty before there is one."""
    return str(read_json(federation.home / "state" / "ledgers.json").get(site, ""))


FAULTS: dict[str, DeployedFault] = {
    fault.name: fault
    for fault in (
        DeployedFault(name="kill site", who=NOBODY, act=_kill_unit),
        DeployedFault(name="kill site executor", who=NOBODY, act=_kill("executor")),
        DeployedFault(name="kill site supernode", who=NOBODY, act=_kill("supernode")),
        DeployedFault(name="kill coordinator", who=NOBODY, act=_kill_unit, of_coordinator=True),
        DeployedFault(name="kill superlink", who=NOBODY, act=_kill("superlink"), of_coordinator=True),
        DeployedFault(name="kill coordinator executor", who=NOBODY, act=_kill("executor"), of_coordinator=True),
        DeployedFault(name="hang site executor", who=NOBODY, act=_hang("executor")),
        DeployedFault(name="hang site supernode", who=NOBODY, act=_hang("supernode")),
        DeployedFault(name="hang superlink", who=NOBODY, act=_hang("superlink"), of_coordinator=True),
        DeployedFault(name="hang coordinator executor", who=NOBODY, act=_hang("executor"), of_coordinator=True),
        DeployedFault(name="cut", who=NOBODY, act=_cut),
        DeployedFault(name="copied home", who=SITE, act=_copy),
        DeployedFault(name="full disk", who=SITE, act=_full_disk, victim="site2"),
        DeployedFault(name="older backup", who=SITE, act=_older_backup, victim="site3"),
        DeployedFault(name="ended certificate", who=BOTH, act=_ended_certificate),
    )
}


class SmallDisk:
    """A disk of its own for a site's home (tmpfs), where this machine allows one; ``why_not`` says why it does not."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.why_not = ""

    def __enter__(self) -> SmallDisk:
        if os.geteuid() != 0:
            self.why_not = "a small disk needs root (mount -t tmpfs)"
            return self
        self._home.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_MB}m,mode=0700", "tmpfs", str(self._home)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            self.why_not = f"no small disk here: {done.stderr.strip()[:100]}"
        return self

    def __exit__(self, *_: object) -> None:
        if not self.why_not:
            subprocess.run(["umount", "--lazy", str(self._home)], check=False, capture_output=True)

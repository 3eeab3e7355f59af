"""What a site needs besides patients: disk space, a clock, a way to the coordinator, keys and a policy.

One finding a line. Only one thing is ever sent, and only from a home: a GET of the coordinator's ``/health``.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from client.adapters.acceptance import Margins
from client.node.status import CLOCK_LIMIT_S
from client.setup import check_connection
from client.setup.findings import FAIL, OK, WARN, Finding
from client.site.config import SiteConfig
from client.site.home import ClientHome
from client.site.policy import Policy
from privacy.trust import certificates, identity, signed
from shared_model.core.errors import InputError

LEAST_FREE_GB, LEAST_MEMORY_GB = 2.0, 4.0
# A certificate that ends within so many days gets a warning.
SOON_DAYS = 30


def machine(folder: Path, device: str = "auto") -> list[Finding]:
    """Disk below ``folder``, memory, the device that ``device`` of site.yaml asks for, clock service."""
    return [_disk(folder), _memory(), _finding("device", lambda: _device(device)), _clock_service()]


def site(home: ClientHome, usable: int | None, *, offline: bool) -> list[Finding]:
    """Check a home's keys, admission, configuration, policy and plan; unless ``offline``, coordinator and clock too.

    ``usable``: number of patients that can be trained on, None if no patient was checked.
    """
    findings = [
        _finding("keys", lambda: _keys(home)),
        _finding("admission", lambda: _admission(home)),
        _finding("site.yaml", lambda: _configuration(home)),
        _finding("policy.yaml", lambda: _policy(home, usable)),
        _finding("plan", lambda: _plan(home)),
    ]
    return findings + ([] if offline else check_connection.coordinator(home))


def _finding(check: str, look: Callable[[], Finding]) -> Finding:
    """Return the finding of ``look``. An error that it raises becomes a failure that says what to do."""
    try:
        return look()
    except InputError as error:
        what, _, todo = str(error).rpartition("; ")
        return Finding(check=check, state=FAIL, found=what or todo, todo=todo if what else "")


def _disk(folder: Path) -> Finding:
    free_gb = shutil.disk_usage(next(p for p in (folder, *folder.absolute().parents) if p.exists())).free / 1e9
    enough = free_gb >= LEAST_FREE_GB
    todo = "" if enough else f"free at least {LEAST_FREE_GB:g} GB: caches, logs and reports need it"
    return Finding(check="disk", state=OK if enough else FAIL, found=f"{free_gb:.0f} GB free", todo=todo)


def _memory() -> Finding:
    total_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    enough = total_gb >= LEAST_MEMORY_GB
    todo = "" if enough else f"{LEAST_MEMORY_GB:g} GB or more are needed to train"
    return Finding(check="memory", state=OK if enough else WARN, found=f"{total_gb:.0f} GB", todo=todo)


def _device(word: str) -> Finding:
    import torch

    from shared_model.network.device import chosen_devices, quick_in_bf16

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device, *others = chosen_devices(word)
    if device.type == "cuda":
        each = [(one, torch.cuda.get_device_properties(one)) for one in (device, *others)]
        found = "; ".join(f"{one}: {it.name}, {it.total_memory / 1e9:.0f} GB" for one, it in each)
        found += f"; {cores} CPU cores"
    elif device.type == "cpu":
        numbers = "bf16" if quick_in_bf16(device) else "float32, for this CPU is slow in bf16"
        found = f"training and prediction run on {cores} CPU cores in {numbers}"
    else:
        found = f"{device}; {cores} CPU cores"
    return Finding(check="device", state=OK, found=found)


def _clock_service() -> Finding:
    """Whether this machine says that its clock is kept by NTP."""
    known = (Path("/run/systemd/timesync/synchronized"), Path("/run/chrony/chronyd.pid"), Path("/run/ntpd.pid"))
    if any(path.exists() for path in known):
        return Finding(check="clock service", state=OK, found="a time service runs")
    todo = f"set up NTP: the coordinator accepts {CLOCK_LIMIT_S:g} s of difference"
    return Finding(check="clock service", state=WARN, found="no sign of a time service", todo=todo)


def _keys(home: ClientHome) -> Finding:
    signed.private_key(identity.read_input(home.identity_key))
    for path in (home.identity_key, home.node_key, home.secret):
        identity.read_input(path)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise InputError(f"{path.name}: others may read it; chmod 600 {path}")
    return Finding(check="keys", state=OK, found="present; only their owner can read them")


def _admission(home: ClientHome) -> Finding:
    home.require_admission()
    until = certificates.expires(identity.read_input(home.certificate))
    days = (until - datetime.now(until.tzinfo)).days
    todo = "ask the coordinator for `server renew`" if days < SOON_DAYS else ""
    return Finding(check="admission", state=WARN if todo else OK, found=f"admitted until {until.date()}", todo=todo)


def _configuration(home: ClientHome) -> Finding:
    config = SiteConfig.load(home.site_config)
    found = f"{len(config.patients())} training, {len(config.validation)} validation patients of kind {config.data}"
    least = Margins().least_patients
    todo = "" if config.train else "list training patients under train; without any, this site only evaluates"
    if not todo and len(config.validation) < least:
        todo = f"list {least} or more under validation: `client adopt` tests a new adapter on them"
    return Finding(check="site.yaml", state=WARN if todo else OK, found=found, todo=todo)


def _policy(home: ClientHome, usable: int | None) -> Finding:
    policy = Policy.load(home.policy)
    if usable is not None and usable < policy.least_patients:
        found = f"least_patients is {policy.least_patients}, {usable} patients are usable"
        return Finding(check="policy.yaml", state=FAIL, found=found, todo="every request would be refused")
    if policy.hours and not any(window.holds(datetime.now()) for window in policy.hours):
        return Finding(check="policy.yaml", state=OK, found="can be read; outside this site's hours now")
    return Finding(check="policy.yaml", state=OK, found="can be read")


def _plan(home: ClientHome) -> Finding:
    if home.pinned_plan() is not None:
        return Finding(check="plan", state=OK, found="pinned")
    if not Policy.load(home.policy).require_plan:
        return Finding(check="plan", state=OK, found="none accepted, and policy.yaml does not require one")
    todo = f"read the federation plan and accept it: client plan --home {home.folder}"
    return Finding(check="plan", state=WARN, found="none accepted; requests are refused until then", todo=todo)

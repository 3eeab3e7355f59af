"""What the machine is that a result comes from."""

from __future__ import annotations

import platform
from pathlib import Path


def cpu_name() -> str:
    """The processor as Linux names it, else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()

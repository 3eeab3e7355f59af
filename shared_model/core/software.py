"""Versions of the software that an adapter's numbers depend on. This module imports none of that software."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("fedkt3d", "flwr", "torch", "numpy")


def versions() -> dict[str, str]:
    """Name -> version of Python and of the packages that an adapter's numbers depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a source tree that is not installed
            found[name] = "unknown"
    return found

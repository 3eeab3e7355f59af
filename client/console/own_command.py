"""Runs a command of `client` for the page in a process of its own, so that the page itself never loads torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from shared_model.core.errors import InputError


def run_client(arguments: Sequence[str], timeout_s: float, *, given: str = "") -> str:
    """Run ``client ARGUMENTS`` with ``given`` on its standard input; return what it prints.

    Raises InputError with the command's own words where it refuses, and when it takes longer than ``timeout_s``.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "client.cli", *arguments],
            input=given, capture_output=True, text=True, encoding="utf-8", timeout=timeout_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InputError(f"`client {arguments[0]}` has not ended after {timeout_s:g} s and was stopped") from None
    if done.returncode:
        raise InputError(done.stderr.strip().removeprefix("client: error: ") or f"`client {arguments[0]}` failed")
    return done.stdout

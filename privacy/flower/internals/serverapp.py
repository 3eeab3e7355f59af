"""Flower's runner of one ServerApp, with the task's token as an argument of a function and not of a command line."""

from __future__ import annotations

from pathlib import Path
from queue import Queue

from flwr.supercore.logger import mirror_output_to_queue
from flwr.superlink.grid import http_grid
from flwr.superlink.runtime import run_serverapp

from privacy.flower.internals.runtime import PromptRuntime


def pull_promptly() -> None:
    """Make Flower's Grid pause briefly, not for a second or more, when a site is still sending a part of an answer."""
    http_grid.RuntimeHttpClient = PromptRuntime  # type: ignore[attr-defined]


def run_task(address: str, token: str, certificate: Path) -> None:
    """Run the ServerApp of the task behind ``token``. This ends the process (Flower's runner exits)."""
    pull_promptly()
    lines: Queue[str | None] = Queue()
    mirror_output_to_queue(lines)
    run_serverapp(
        runtime_api_address=address,
        log_queue=lines,
        token=token,
        insecure=False,
        certificates=certificate.read_bytes(),
        runtime_dependency_install=False,
    )

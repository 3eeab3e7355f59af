"""Switch off work that takes a SuperLink most of a round and is not needed. Call this in its process before it serves.

Measured with 20 MB and two sites (docs/results/deployed_round.md).
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI
    from flwr.supercore.corestate.sql_corestate import SqlCoreState

LEASES_EVERY_S = 1.0  # leases are 30 s and more


def store_large_parts() -> None:
    """Make SQLite keep parts of 5 MB in pages of 64 KiB, and tidy up its log every 100 MB, not with every part.

    Writing a part then takes a third of the time, and so does deleting it. An older database keeps pages of 4 KiB.
    """
    from flwr.supercore import sql_mixin

    before = (("page_size", "65536"),)  # only a new database takes it, before its first write
    pragmas = (*before, *vars(sql_mixin)["SQLITE_PRAGMAS"], ("wal_autocheckpoint", "1600"))
    vars(sql_mixin)["SQLITE_PRAGMAS"] = pragmas


def without_idle_layers(application: FastAPI) -> None:
    """Remove Flower's layers that do nothing here (license, event log, login). Each slows every request."""
    from flwr.superlink.routers.control import middlewares as control
    from flwr.superlink.routers.fleet.middlewares import FleetEventLogMiddleware

    idle: tuple[object, ...] = (
        FleetEventLogMiddleware,
        control.ControlEventLogMiddleware,
        control.ControlLicenseMiddleware,
        control.ControlSensitiveResponseMiddleware,
    )
    application.user_middleware = [layer for layer in application.user_middleware if layer.cls not in idle]


def look_for_lapsed_leases_at_times() -> None:
    """Look for tasks whose lease has lapsed once in LEASES_EVERY_S, not at nearly every request.

    Each look writes, and SQLite lets in one writer at a time: what only reads had to wait for what stores parts.
    """
    from flwr.supercore.corestate.sql_corestate import SqlCoreState

    look = SqlCoreState._cleanup_expired_task_tokens
    lock, looked_at = threading.Lock(), [0.0]

    def at_times(state: SqlCoreState) -> None:
        with lock:
            now = time.monotonic()
            if now - looked_at[0] < LEASES_EVERY_S:
                return
            looked_at[0] = now
        look(state)

    SqlCoreState._cleanup_expired_task_tokens = at_times  # type: ignore[method-assign, assignment]


def count_no_traffic() -> None:
    """Skip Flower's own count of a run's bytes, which costs one write per part. The run's report has that number."""
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState

    def nothing(_state: SqlLinkState, _run_id: int, *, bytes_sent: int, bytes_recv: int) -> None:
        return

    SqlLinkState.store_traffic = nothing  # type: ignore[method-assign, assignment]

"""`server metrics`: what `server status` shows, for Prometheus. A process of its own, so that it never touches a run.

Sites stand by their names, as in `server status`; nothing of a patient is known here. Each scrape reads the state anew,
but not more often than every LEAST_S.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from privacy.trust import certificates, identity
from server.deployment.home import ServerHome
from server.runs.status import report
from shared_model.core.errors import InputError

LEAST_S = 5.0
_OVER = ("finished", "not running", "ended")


class CoordinatorMetrics(Collector):
    """Gauges of one coordinator's folder."""

    def __init__(self, home: ServerHome) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._known: dict[str, Any] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One family a figure; a figure that is not known has no sample."""
        state = self._state()
        yield _one("fedkt3d_up", "1: `server start` runs.", state["running"])
        yield _one("fedkt3d_ready", "1: sites can connect.", state["ready"])
        sites = GaugeMetricFamily("fedkt3d_site_online", "1: the site is connected.", labels=["site"])
        for name, site in state["sites"].items():
            if site["status"] != "unknown":
                sites.add_metric([name], float(site["status"] == "online"))
        yield sites
        yield from self._runs(state["runs"])
        until = certificates.expires(identity.read_input(self._home.tls_certificate)).timestamp()
        yield _one("fedkt3d_tls_certificate_end_timestamp_seconds", "When no site can connect any more.", until)
        yield _one("fedkt3d_disk_free_bytes", "Free on the folder's disk.", shutil.disk_usage(self._home.folder).free)

    def _runs(self, runs: list[dict[str, Any]]) -> Iterator[GaugeMetricFamily]:
        """Of each run its latest start."""
        newest = {run["name"]: run for run in runs}
        figures: dict[str, tuple[str, Callable[[dict[str, Any]], float | None]]] = {
            "round": ("Rounds done.", lambda run: run["round"]),
            "rounds": ("Rounds in all.", lambda run: run["rounds"]),
            "sites": ("Sites in the last round.", lambda run: len(run["sites"])),
            "active": ("1: it is under way.", lambda run: not run["status"].startswith(_OVER)),
        }
        for name, (text, figure) in figures.items():
            family = GaugeMetricFamily(f"fedkt3d_run_{name}", text, labels=["run"])
            for run_name, run in newest.items():
                value = figure(run)
                if value is not None:
                    family.add_metric([run_name], float(value))
            yield family

    def _state(self) -> dict[str, Any]:
        with self._lock:
            if time.monotonic() - self._read_at >= LEAST_S:
                self._known, self._read_at = report(self._home), time.monotonic()
            return self._known


def serve(home: ServerHome, host: str, port: int) -> tuple[WSGIServer, threading.Thread]:
    """Serve ``http://host:port/metrics`` until the returned server is shut down. InputError when the port is taken."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(CoordinatorMetrics(home))
    try:
        return start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise InputError(f"--port {port}: {host} cannot be listened on ({error.strerror}); choose another") from error


def _one(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=float(value))

"""Lines that lose their site at a stage of a protocol: while a message of one kind is on its way to it."""

from __future__ import annotations

import os
import signal
import threading

from tests.e2e.deployment import Deployment
from tests.e2e.faults import FaultProxy, reach_by


class Losses:
    """Which site is lost at which message: (site, what the message holds), in order, each once."""

    def __init__(self, *losses: tuple[str, str]) -> None:
        self._left = list(losses)
        self._lock = threading.Lock()

    @property
    def left(self) -> list[tuple[str, str]]:
        """Losses that have not come yet."""
        return list(self._left)

    def takes(self, site: str, content: bytes) -> bool:
        """Whether the site is lost now, with ``content`` on its way to it."""
        with self._lock:
            if not self._left or self._left[0][0] != site or self._left[0][1].encode() not in content:
                return False
            self._left.pop(0)
            return True


class StageProxy(FaultProxy):
    """Between one site and the coordinator. A site that is lost dies (kill -9) before it gets the message, which is not
    sent a second time: for this stage the site is silent. `client start` then starts its processes again."""

    def __init__(self, deployment: Deployment, site: str, losses: Losses) -> None:
        self._deployment, self._site, self._losses = deployment, site, losses
        super().__init__(deployment.home, deployment.port)
        reach_by(deployment.site(site), self.port)

    def forward(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        status, content = super().forward(path, headers, body)
        if self._losses.takes(self._site, content):
            for pid in self._deployment.children(self._deployment.site(self._site)).values():
                os.kill(pid, signal.SIGKILL)
            return 502, b""
        return status, content

"""Flower's SuperNode in this process: its requests watched, its pauses shortened, the bodies of its API read whole."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode import main as supernode_api
from flwr.supernode.cli.flower_supernode import flower_supernode
from flwr.supernode.fleet_http_client import FleetHttpClient

from privacy.flower.pace import pause_s, until_there
from privacy.flower.whole_body import WholeBody


def watch_requests(watch: ProtobufClientInterceptor) -> None:
    """Put ``watch`` before every request of the SuperNode; soon ask again for parts that are on their way."""

    class Watched(FleetHttpClient):
        def __init__(self, base_url: str, *, interceptors: Any = (), **rest: Any) -> None:
            super().__init__(base_url, interceptors=(watch, *interceptors), **rest)

        def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:  # noqa: N802
            return until_there(partial(super().PullObject, request))

    fleet_http_connection.FleetHttpClient = Watched  # type: ignore[attr-defined]


def read_bodies_whole() -> None:
    """Put privacy/flower/whole_body.py in front of the API that the executor talks to."""
    create_app = supernode_api.create_app

    def create(*arguments: Any, **options: Any) -> WholeBody:
        return WholeBody(create_app(*arguments, **options))

    supernode_api.create_app = create  # type: ignore[assignment]


def shorten_pauses(idle_s: Callable[[], float]) -> None:
    """Shorten the pauses of the main loop by ``idle_s``, the seconds since it last worked; none becomes longer."""

    class Pauses:
        @staticmethod
        def sleep(seconds: float) -> None:
            time.sleep(pause_s(idle_s(), longest_s=seconds))

    start_client_internal.time = Pauses  # type: ignore[attr-defined, assignment]


def run_supernode(flags: Sequence[str]) -> None:
    """Run until the end. The command line is the one supported way to configure it. Raises SystemExit."""
    sys.argv = ["flower-supernode", *flags]
    flower_supernode()

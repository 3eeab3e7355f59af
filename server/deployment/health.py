"""gRPC's standard health service for the coordinator, for orchestrators that ask by it (Kubernetes, Envoy, grpcurl).

SERVING means that the SuperLink answered when `server start` last asked it, every 10 s. Flower's own health server
(`flower-superlink --health-server-address`) says SERVING as long as its process lives, and a hung one lives.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from shared_model.core.errors import InputError

STOP_S = 1.0


class HealthService:
    """Answers for the whole server (service name "") at ``address`` (HOST:PORT, without TLS); None: not at all.

    Not serving until `say`. A context; InputError when the address cannot be listened on.
    """

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._servicer = health.HealthServicer()
        self._server: grpc.Server | None = None
        self.say(serving=False)

    def __enter__(self) -> HealthService:
        if self._address is None:
            return self
        server = grpc.server(ThreadPoolExecutor(2), options=(("grpc.so_reuseport", 0),))
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        try:
            bound = server.add_insecure_port(self._address)
        except RuntimeError:
            bound = 0
        if not bound:
            raise InputError(f"--health {self._address}: cannot listen there; expected HOST:PORT that is free here")
        server.start()
        self._server = server
        return self

    def __exit__(self, *_: object) -> None:
        self._servicer.enter_graceful_shutdown()
        if self._server is not None:
            self._server.stop(STOP_S).wait()

    def say(self, *, serving: bool) -> None:
        """Say from now on whether the coordinator serves."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        self._servicer.set("", status)

"""gRPC's health service of the coordinator, asked as an orchestrator asks it; and the exit codes of health checks."""

from __future__ import annotations

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from privacy.flower.processes import LOOPBACK, free_loopback_port
from server.deployment.health import HealthService
from shared_model.core.errors import InputError


def asked(address: str) -> str:
    with grpc.insecure_channel(address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=""), timeout=20)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def test_it_serves_only_while_the_superlink_answers() -> None:
    address = f"{LOOPBACK}:{free_loopback_port()}"
    with HealthService(address) as service:
        assert asked(address) == "NOT_SERVING"
        service.say(serving=True)
        assert asked(address) == "SERVING"
        service.say(serving=False)
        assert asked(address) == "NOT_SERVING"
    with pytest.raises(grpc.RpcError):
        asked(address)


def test_a_taken_port_is_one_clear_error() -> None:
    address = f"{LOOPBACK}:{free_loopback_port()}"
    with HealthService(address), pytest.raises(InputError, match="--health"), HealthService(address):
        pass


def test_none_is_asked_for_and_none_is_there() -> None:
    with HealthService(None) as service:
        service.say(serving=True)

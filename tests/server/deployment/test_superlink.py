"""The guard's decision for every kind of request; the real SuperLink behind it is in tests/e2e."""

import asyncio
import base64
from typing import Any

import pytest

from server.deployment.superlink import Guard

SECRET = b"s3cret"
FLEET_PORT, CONTROL_PORT = 9092, 9093
KEY = (b"flwr-public-key", b"stands for an admitted one")
BASIC = b"Basic " + base64.b64encode(b"coordinator:" + SECRET)


def ask(
    path: str, port: int | None, headers: list[tuple[bytes, bytes]] | None = None, admitted: bool = True
) -> tuple[int, list[Any]]:
    """Status that the guard answers (200 from the app behind it), and the headers that the app saw."""
    seen: list[Any] = []
    statuses: list[int] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def desk(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 299, "headers": []})

    async def receive() -> Any:
        raise AssertionError("the guard must not read the body")

    async def send(event: Any) -> None:
        if event["type"] == "http.response.start":
            statuses.append(event["status"])

    scope = {
        "type": "http",
        "path": path,
        "headers": headers or [],
        "client": ("127.0.0.1", 5),
        "server": None if port is None else ("127.0.0.1", port),
    }
    guard = Guard(application, CONTROL_PORT, SECRET, lambda given: admitted or KEY in given, desk)
    asyncio.run(guard(scope, receive, send))
    return statuses[0], seen


@pytest.mark.parametrize("path", ["/v1/fleet/pull-messages", "/health"])
def test_sites_reach_fleet_and_health(path: str) -> None:
    assert ask(path, FLEET_PORT)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/docs",
        "/openapi.json",
        "/",
        "",
        "/v1/fleet",
        "/v1/fleet/../control/start-run",
        "//v1/fleet/x",
        "/healthz",
        "/join/",
        "/join/x",
        "/v1/responses",
    ],
)
@pytest.mark.parametrize("headers", [[], [(b"authorization", BASIC)], [(b"x-forwarded-for", b"127.0.0.1")]])
def test_nothing_else_exists_on_the_sites_port(path: str, headers: list[tuple[bytes, bytes]]) -> None:
    assert ask(path, FLEET_PORT, headers)[0] == 404


def test_control_needs_the_secret_once_and_takes_it_off() -> None:
    path = "/v1/control/list-nodes"
    status, seen = ask(path, CONTROL_PORT, [(b"authorization", BASIC), (b"x-other", b"1")])
    assert (status, seen) == (200, [(b"x-other", b"1")])
    wrong = b"Basic " + base64.b64encode(b"coordinator:S3cret")
    for headers in (
        [],
        [(b"authorization", wrong)],
        [(b"authorization", b"Bearer " + SECRET)],
        [(b"authorization", BASIC)] * 2,
    ):
        assert ask(path, CONTROL_PORT, headers)[0] == 404


def test_the_control_port_serves_runtime_and_no_fleet() -> None:
    assert ask("/v1/runtime/acquire-task", CONTROL_PORT)[0] == 200
    assert ask("/v1/fleet/pull-messages", CONTROL_PORT)[0] == 404
    assert ask("/docs", CONTROL_PORT, [(b"authorization", BASIC)])[0] == 404


def test_a_connection_of_unknown_origin_gets_no_control() -> None:
    assert ask("/v1/control/list-nodes", None, [(b"authorization", BASIC)])[0] == 404


def test_the_desk_for_new_sites_is_on_their_port_alone() -> None:
    assert ask("/join", FLEET_PORT, admitted=False)[0] == 299
    assert ask("/join", CONTROL_PORT)[0] == 404
    assert ask("/join", CONTROL_PORT, [(b"authorization", BASIC)])[0] == 404

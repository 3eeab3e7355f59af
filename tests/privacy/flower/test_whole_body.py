"""A body in pieces reaches the application in one; too large a one and a client that left do not reach it."""

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from privacy.flower.whole_body import TOO_LARGE, WholeBody


def served(events: list[dict[str, Any]], largest: int = 1000, kind: str = "http") -> tuple[list[Any], list[Any]]:
    """What the application saw of the client's events, and what the client was answered."""
    seen: list[Any] = []
    sent: list[Any] = []
    coming = iter(events)

    async def application(_scope: Any, receive: Any, send: Any) -> None:
        seen.append(await receive())
        seen.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Any:
        return next(coming)

    async def send(event: Any) -> None:
        sent.append(event)

    asyncio.run(WholeBody(application, largest)({"type": kind}, receive, send))
    return seen, sent


GONE = {"type": "http.disconnect"}


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=30))
def test_pieces_become_one_body_and_what_follows_follows(pieces: list[bytes]) -> None:
    events = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    events[-1]["more_body"] = False
    seen, sent = served([*events, GONE])
    assert seen == [{"type": "http.request", "body": b"".join(pieces), "more_body": False}, GONE]
    assert sent[0]["status"] == 200


def test_a_request_without_a_body_is_an_empty_one() -> None:
    seen, _ = served([{"type": "http.request"}, GONE])
    assert seen[0]["body"] == b""


def test_a_body_that_is_too_large_is_refused_before_it_is_all_there() -> None:
    pieces = [{"type": "http.request", "body": b"x" * 600, "more_body": True}] * 2  # a third would raise StopIteration
    seen, sent = served(pieces)
    assert seen == []
    assert sent[0]["status"] == TOO_LARGE


def test_a_client_that_leaves_in_the_middle_reaches_nobody() -> None:
    seen, sent = served([{"type": "http.request", "body": b"half", "more_body": True}, GONE])
    assert (seen, sent) == ([], [])


def test_the_applications_start_and_end_pass_untouched() -> None:
    events = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    assert served(events, kind="lifespan")[0] == events

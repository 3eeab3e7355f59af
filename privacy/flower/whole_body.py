"""ASGI front that reads a request's body before it calls the application, and hands it on in one piece.

Flower's applications stand behind up to eight of Starlette's BaseHTTPMiddleware, and each of those makes a task group
for each piece of a body. A part of a message of 5 MB comes in some eighty pieces: with these layers they cost a
SuperLink more than all else that it does in a round. Flower reads the whole body in any case before it looks at it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# Flower cuts arrays into parts of 5 MB; the rest of a message is far smaller.
LARGEST_BODY = 64 * 1024 * 1024
TOO_LARGE = 413


class WholeBody:
    """ASGI application in front of ``application``; answers 413 to a body above ``largest`` bytes."""

    def __init__(self, application: Application, largest: int = LARGEST_BODY) -> None:
        self._application = application
        self._largest = largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event stream (ASGI 3.0)."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        pieces: list[bytes] = []
        size, more = 0, True
        while more:
            event = await receive()
            if event["type"] != "http.request":  # the client left
                return
            pieces.append(event.get("body", b""))
            size += len(pieces[-1])
            if size > self._largest:
                await refuse(send, TOO_LARGE)
                return
            more = event.get("more_body", False)
        whole: list[Event] = [{"type": "http.request", "body": b"".join(pieces), "more_body": False}]
        del pieces, event

        async def receive_whole() -> Event:
            return whole.pop() if whole else await receive()

        await self._application(scope, receive_whole, send)


async def refuse(send: Send, status: int) -> None:
    """Answer with a status and nothing else."""
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})

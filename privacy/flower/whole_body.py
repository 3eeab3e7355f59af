"""ASGI front that reads a request's whole body first and passes it to the application in one piece.

Flower puts up to eight of Starlette's BaseHTTPMiddleware in front of its applications. Each of them makes a task group
for each piece of a body. A message part of 5 MB arrives in about eighty pieces. Handling these pieces in all the layers
costs a SuperLink more than everything else in a round. Flower reads the whole body before it looks at it in any case.
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
    """ASGI application in front of ``application``. It answers 413 to a body above ``largest`` bytes."""

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

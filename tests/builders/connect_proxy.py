"""A hospital's web proxy: CONNECT (RFC 9110, 9.3.6), a password if it has one, and nothing else."""

from __future__ import annotations

import asyncio
import threading
from base64 import b64encode
from contextlib import suppress


class ConnectProxy:
    """Listens on ``port`` for as long as the block runs. ``asked``: for whom; ``carried``: bytes, both ways."""

    def __init__(self, user: str = "") -> None:
        self.asked: list[str] = []
        self.carried = 0
        self.port = 0
        self._wanted = f"basic {b64encode(user.encode()).decode()}".lower() if user else ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> ConnectProxy:
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(20)
        self.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)

    async def _end(self) -> None:
        """Cancel what is still open."""
        open_tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in open_tasks:
            task.cancel()
        await asyncio.gather(*open_tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, ValueError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, where, _ = head.split("\r\n", 1)[0].split(" ", 2)
            if self._wanted and f"proxy-authorization: {self._wanted}" not in head.lower():
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            elif method != "CONNECT":
                writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            else:
                self.asked.append(where)
                host, _, port = where.rpartition(":")
                there, back = await asyncio.open_connection(host.strip("[]"), int(port))
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await asyncio.gather(self._carry(reader, back), self._carry(there, writer))
            await writer.drain()
        writer.close()

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while part := await source.read(65536):
                self.carried += len(part)
                target.write(part)
                await target.drain()
        target.close()

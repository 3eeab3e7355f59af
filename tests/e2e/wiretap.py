"""A proxy that ends TLS with the coordinator's own key, keeps every byte of both directions, and passes it on.

Sites take it for the coordinator: it shows the coordinator's certificate, on another port.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from contextlib import suppress
from pathlib import Path

from privacy.flower.processes import free_loopback_port

PROTOCOLS = ["h2", "http/1.1"]


class Wiretap:
    """Listens on ``port`` for as long as the block runs; ``heard`` is all that went either way, in the clear."""

    def __init__(self, key: Path, certificate: Path, ca: Path, target_port: int) -> None:
        self.port = free_loopback_port()
        self._target_port, self._ca = target_port, ca
        self._server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._server_tls.load_cert_chain(certificate, key)
        self._server_tls.set_alpn_protocols(PROTOCOLS)
        self._parts: list[bytes] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Wiretap:
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._server_tls)
        asyncio.run_coroutine_threadsafe(starting, self._loop).result(20)
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

    @property
    def heard(self) -> bytes:
        """Every byte so far, in the order of its coming; the directions are not kept apart."""
        return b"".join(self._parts)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        tls = ssl.create_default_context(cafile=str(self._ca))
        if chosen:
            tls.set_alpn_protocols([chosen])
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target_port, ssl=tls)
        except OSError:
            writer.close()
            return
        with suppress(asyncio.CancelledError):  # the end of the block
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                self._parts.append(data)
                sink.write(data)
                await sink.drain()
        except (OSError, ssl.SSLError):
            pass
        finally:
            sink.close()

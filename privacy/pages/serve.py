"""Serve a page to a few people at once, however many call."""

from __future__ import annotations

from pathlib import Path

import uvicorn
from fastapi import FastAPI

# Connections beyond this are answered 503 at once: a few people look at a page, each with a stream and some files.
MOST_CONNECTIONS = 64


def serve_page(app: FastAPI, host: str, port: int, key: Path | None = None, certificate: Path | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C. With ``key``: HTTPS."""
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=2,
        ssl_keyfile=None if key is None else str(key),
        ssl_certfile=None if certificate is None else str(certificate),
    )

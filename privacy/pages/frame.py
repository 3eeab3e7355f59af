"""What both web pages are made of: an application behind the guard, templates, a part that changes, acts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from privacy.pages.guard import PageGuard
from shared_model.core.errors import FedKT3DError

_HERE = Path(__file__).parent
LIVE_S = 1.0
_MOST_STREAMS = 20
Given = Mapping[str, str]


def guarded_app(title: str, guard: PageGuard) -> FastAPI:
    """Return an application that only ``guard`` opens, with the style and script that both pages use."""
    app = FastAPI(title=title, docs_url=None, redoc_url=None, openapi_url=None)
    app.middleware("http")(guard)
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")
    return app


def page_templates(folder: Path, top: str) -> Environment:
    """Return the templates of ``folder`` and the frame ``base.html``, all escaped. ``top`` names the first page."""
    environment = Environment(
        loader=FileSystemLoader([folder, _HERE / "templates"]),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
    )
    environment.globals["top"] = top
    return environment


class LivePart:
    """A page's changing part as server-sent events. ``draw`` makes it, of the key in the page's address."""

    def __init__(self, draw: Callable[[str], str]) -> None:
        self._draw = draw
        self._streams = 0

    def stream(self, request: Request, key: str) -> Response:
        """Return the answer that sends the part whenever it has changed, until the browser leaves."""
        if self._streams >= _MOST_STREAMS:
            return HTMLResponse("too many pages are open\n", 503)
        return StreamingResponse(self._changes(request, key), media_type="text/event-stream")

    async def _changes(self, request: Request, key: str) -> AsyncIterator[str]:
        self._streams += 1
        try:
            sent = ""
            while not await request.is_disconnected():
                part = await run_in_threadpool(self._draw, key)
                # A comment keeps the line open and tells the browser's absence.
                yield f"data: {json.dumps(part)}\n\n" if part != sent else ": unchanged\n\n"
                sent = part
                await asyncio.sleep(LIVE_S)
        finally:
            self._streams -= 1


def add_act(app: FastAPI, path: str, do: Callable[[Given], Mapping[str, Any]]) -> None:
    """Let the page's form ``path`` call ``do`` with its fields. An error of ours becomes the answer's ``error``."""

    def answer(given: Annotated[dict[str, str], Body()]) -> Response:
        try:
            return JSONResponse(dict(do(given)))
        except FedKT3DError as error:
            return JSONResponse({"error": str(error)}, 400)

    app.post(f"/acts/{path}")(answer)

"""The console's web application: pages, parts of pages that change, and the few acts (server/console/actions.py)."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from server.config.federation_plan import PLAN_DAYS
from server.console import actions
from server.console.curves import HEIGHT, WIDTH
from server.console.guard import PageGuard
from server.console.overview import Overview, RunLine
from server.console.run_view import clock, in_words
from server.deployment.home import ServerHome
from server.runs.index import ADAPTER
from shared_model.core.errors import FedKT3DError, InputError

_HERE = Path(__file__).parent
LIVE_S = 1.0
# Files of a run that can be saved from the page.
SAVED = (ADAPTER, "adapter.json", "federation.json", "events.jsonl")
_MOST_STREAMS = 20


def console_app(home: ServerHome, guard: PageGuard) -> FastAPI:
    """Return the application for one coordinator, shut by ``guard``."""
    app = FastAPI(title="FedKT3D console", docs_url=None, redoc_url=None, openapi_url=None)
    app.middleware("http")(guard)
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")
    _Pages(app, Overview(home), _templates())
    _acts(app, home)
    return app


def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"), autoescape=select_autoescape(), undefined=StrictUndefined
    )
    environment.filters.update(clock=clock, in_words=in_words)
    environment.globals.update(width=WIDTH, height=HEIGHT)
    return environment


class _Pages:
    """Pages of one coordinator. Each has a part ``live`` that is sent anew when it changes."""

    def __init__(self, app: FastAPI, overview: Overview, templates: Environment) -> None:
        self._overview, self._templates = overview, templates
        # Pages are made in several threads, and a look changes what the views hold: one at a time.
        self._lock = threading.Lock()
        self._streams = 0
        app.get("/")(self.home)
        app.get("/runs/{name}")(self.run)
        app.get("/live")(self.live)
        app.get("/runs/{name}/files/{file}")(self.file)

    def home(self) -> HTMLResponse:
        """Coordinator, sites, runs."""
        return HTMLResponse(self._drawn("home.html", ""))

    def run(self, name: str) -> Response:
        """One run."""
        drawn = self._drawn("run.html", name)
        return HTMLResponse(drawn or "no such run\n", 200 if drawn else 404)

    def file(self, name: str, file: str) -> Response:
        """A file of a run."""
        with self._lock:
            line = self._overview.run(name)
        path = None if line is None or file not in SAVED else line.view.out / file
        if path is None or not path.is_file():
            return HTMLResponse("no such file\n", 404)
        return FileResponse(path, filename=f"{name}-{file}", media_type="application/octet-stream")

    async def live(self, request: Request, run: str = "") -> Response:
        """Server-sent events: the changing part of the home page, or of ``run``'s, whenever it changes."""
        if self._streams >= _MOST_STREAMS:
            return HTMLResponse("too many pages are open\n", 503)
        return StreamingResponse(self._changes(request, run), media_type="text/event-stream")

    async def _changes(self, request: Request, run: str) -> AsyncIterator[str]:
        self._streams += 1
        try:
            sent = ""
            while not await request.is_disconnected():
                part = await run_in_threadpool(self._drawn, "run_live.html" if run else "home_live.html", run)
                # A comment keeps the line open and tells the browser's absence.
                yield f"data: {json.dumps(part)}\n\n" if part != sent else ": unchanged\n\n"
                sent = part
                await asyncio.sleep(LIVE_S)
        finally:
            self._streams -= 1

    def _drawn(self, template: str, run: str) -> str:
        """The template for ``run``, or for the coordinator where it is empty; empty if there is no such run."""
        with self._lock:
            if not run:
                values = {"look": self._overview.look()}
            else:
                line = self._overview.run(run)
                if line is None:
                    return ""
                values = self._run(line)
            return self._templates.get_template(template).render(values)

    def _run(self, line: RunLine) -> dict[str, Any]:
        files = [name for name in SAVED if (line.view.out / name).is_file()]
        budget, lineage = self._overview.budget(line), self._overview.lineage(line)
        return {"run": line, "view": line.view, "files": files, "budget": budget, "lineage": lineage}


def _acts(app: FastAPI, home: ServerHome) -> None:
    """Routes of what can be done. Each takes JSON from the console's page, and answers with words and maybe a file."""

    def act(path: str, do: Callable[[Mapping[str, str]], actions.Made]) -> None:
        def answer(given: Annotated[dict[str, str], Body()]) -> Response:
            try:
                made = do(given)
            except FedKT3DError as error:
                return JSONResponse({"error": str(error)}, 400)
            return JSONResponse({"words": made.words, "file": made.file, "content": made.content})

        app.post(f"/acts/{path}")(answer)

    act("invite", lambda g: actions.invite(home, _of(g, "site"), _days(g, 14), g.get("address", "")))
    act("admit", lambda g: actions.admit(home, _of(g, "request")))
    act("plan", lambda g: actions.plan(home, g.get("settings", ""), _days(g, PLAN_DAYS)))
    act("start", lambda g: actions.start_run(home, g.get("settings", "")))
    act("resume", lambda g: actions.resume_run(home, _of(g, "run")))
    act("stop", lambda g: actions.stop_run(home, _of(g, "run")))


def _of(given: Mapping[str, str], key: str) -> str:
    value = given.get(key, "").strip()
    if not value:
        raise InputError(f"{key}: is missing")
    return value


def _days(given: Mapping[str, str], otherwise: int) -> int:
    text = given.get("days", "").strip()
    if text and not (text.isascii() and text.isdecimal() and len(text) < 5):
        raise InputError(f"days: {text!r}: expected a number of days")
    return int(text) if text else otherwise

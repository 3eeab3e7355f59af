"""The console's web application: pages, parts of pages that change, and the few acts (server/console/actions.py)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from jinja2 import Environment

from privacy.pages.curves import HEIGHT, WIDTH
from privacy.pages.frame import Given, LivePart, add_act, guarded_app, page_templates
from privacy.pages.guard import PageGuard
from server.config.federation_plan import PLAN_DAYS
from server.console import actions
from server.console.overview import Overview, RunLine
from server.console.run_view import clock, in_words
from server.deployment.home import ServerHome
from server.runs.index import ADAPTER
from shared_model.core.errors import FedKT3DError, InputError

# Files of a run that can be saved from the page.
SAVED = (ADAPTER, "adapter.json", "federation.json", "events.jsonl")


def console_app(home: ServerHome, guard: PageGuard) -> FastAPI:
    """Return the application for one coordinator, shut by ``guard``."""
    app = guarded_app("FedKT3D console", guard)
    app.state.pages = ConsolePages(app, Overview(home), _templates())
    _acts(app, home)
    return app


def _templates() -> Environment:
    environment = page_templates(Path(__file__).parent / "templates", "Coordinator")
    environment.filters.update(clock=clock, in_words=in_words)
    environment.globals.update(width=WIDTH, height=HEIGHT)
    return environment


class ConsolePages:
    """Pages of one coordinator. Each has a part ``live`` that is sent anew when it changes."""

    def __init__(self, app: FastAPI, overview: Overview, templates: Environment) -> None:
        self._overview, self._templates = overview, templates
        # Pages are made in several threads, and a look changes what the views hold: one at a time.
        self._lock = threading.Lock()
        self._live = LivePart(lambda run: self._drawn("run_live.html" if run else "home_live.html", run))
        app.get("/")(self.home)
        app.get("/runs/{name}")(self.run)
        app.get("/live")(self.live)
        app.get("/runs/{name}/files/{file}")(self.file)

    def read_ahead(self) -> None:
        """Read the runs' events so far, which takes a second for 100,000: before the first visitor has to wait."""
        with suppress(FedKT3DError, OSError):  # the page itself says what is wrong
            self._drawn("home.html", "")

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
        return self._live.stream(request, run)

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

    def act(path: str, do: Callable[[Given], actions.Made]) -> None:
        add_act(app, path, lambda given: asdict(do(given)))

    act("invite", lambda g: actions.invite(home, _of(g, "site"), _days(g, 14), g.get("address", "")))
    act("admit", lambda g: actions.admit(home, g.get("site", "").strip(), g.get("request", "")))
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

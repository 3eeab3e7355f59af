"""The page's web application: the site, its predictions, its scorecards, the acts on a plan (actions.py)."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response

from client.console import actions
from client.console.card_pages import CardPages
from client.console.doses import AXES, HEIGHT, WIDTH, DoseFolder
from client.console.overview import SiteOverview, moment
from client.site.home import ClientHome
from client.site.predictions import NotedPrediction, noted_predictions
from privacy.pages import curves
from privacy.pages.frame import LivePart, add_act, guarded_app, page_templates
from privacy.pages.guard import PageGuard
from shared_model.core.errors import FedKT3DError


def site_app(home: ClientHome, guard: PageGuard) -> FastAPI:
    """Return the application for one site, shut by ``guard``."""
    app = guarded_app("FedKT3D site", guard)
    _SitePages(app, home)
    add_act(app, "fetch", lambda given: actions.fetch(home))
    add_act(app, "accept", lambda given: actions.accept(home, given))
    add_act(app, "decline", lambda given: actions.decline(home, given))
    return app


class _SitePages:
    """Pages of one site."""

    def __init__(self, app: FastAPI, home: ClientHome) -> None:
        self._home, self._overview = home, SiteOverview(home)
        self._templates = page_templates(Path(__file__).parent / "templates", f"Site {home.site}")
        self._templates.filters["moment"] = moment
        self._templates.globals.update(width=WIDTH, height=HEIGHT, curve_box=f"0 0 {curves.WIDTH} {curves.HEIGHT}")
        # Pages are made in several threads, and a look changes what is kept: one at a time.
        self._lock = threading.Lock()
        self._live = LivePart(lambda _: self._drawn("site_live.html"))
        CardPages(app, home, self._templates)
        app.get("/")(self.site)
        app.get("/live")(self.live)
        app.get("/predictions/{key}")(self.prediction)
        app.get("/predictions/{key}/{axis}/{index}.png")(self.slice)

    def site(self) -> HTMLResponse:
        """The site: plan, budget, what was asked, its data."""
        return HTMLResponse(self._drawn("site.html"))

    async def live(self, request: Request) -> Response:
        """Server-sent events: the changing part."""
        return self._live.stream(request, "")

    def prediction(self, key: str) -> Response:
        """One prediction."""
        noted = self._noted(key)
        if noted is None:
            return HTMLResponse("no such prediction\n", 404)
        try:
            dose = DoseFolder(noted.folder)
            lines, most_gy = dose.dvhs()
        except FedKT3DError as error:
            return HTMLResponse(
                self._templates.get_template("damaged.html").render(what="prediction", why=str(error)), 404
            )
        values = {"noted": noted, "dose": dose, "lines": lines, "most_gy": most_gy, "axes": AXES}
        return HTMLResponse(self._templates.get_template("prediction.html").render(values))

    def slice(self, key: str, axis: str, index: int) -> Response:
        """One slice of a prediction."""
        noted = self._noted(key)
        if noted is None:
            return HTMLResponse("no such prediction\n", 404)
        try:
            with self._lock:
                content = DoseFolder(noted.folder).slice_png(axis, index)
        except (FedKT3DError, OSError):
            return HTMLResponse("no such slice\n", 404)
        return Response(content, media_type="image/png")

    def _noted(self, key: str) -> NotedPrediction | None:
        return next((noted for noted in noted_predictions(self._home) if noted.key == key), None)

    def _drawn(self, template: str) -> str:
        with self._lock:
            values: dict[str, Any] = {"look": self._overview.look()}
            if template == "site.html":
                values |= {"plan": self._overview.plan(), "report": self._overview.report()}
            return self._templates.get_template(template).render(values)

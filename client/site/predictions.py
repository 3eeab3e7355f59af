"""Where `client predict --home` put its predictions: ``state/predictions.json``, for the site's page. Newest first."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.site.home import ClientHome
from shared_model.core.files import write_json

_MOST = 500


@dataclass(frozen=True, kw_only=True)
class NotedPrediction:
    """One prediction: its folder, the case's pseudonym, when it was made (seconds since 1970)."""

    folder: Path
    case: str
    at: float

    @property
    def key(self) -> str:
        """What names it in an address: of the folder's path, without showing it."""
        return hashlib.sha256(str(self.folder).encode()).hexdigest()[:16]


def note_prediction(home: ClientHome, folder: Path, case: str) -> None:
    """Note that ``folder`` holds a prediction of ``case``."""
    made = {"folder": str(folder.resolve()), "case": case, "at": time.time()}
    kept = [line for line in _read(home) if line.get("folder") != made["folder"]]
    write_json(home.state("predictions"), [made, *kept][:_MOST])


def noted_predictions(home: ClientHome) -> list[NotedPrediction]:
    """Return the predictions whose folder is still there."""
    found = []
    for line in _read(home):
        try:
            noted = NotedPrediction(folder=Path(line["folder"]), case=str(line["case"]), at=float(line["at"]))
        except (KeyError, TypeError, ValueError):
            continue
        if (noted.folder / "report.json").is_file():
            found.append(noted)
    return found


def _read(home: ClientHome) -> list[dict[str, Any]]:
    try:
        found = json.loads(home.state("predictions").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [line for line in found if isinstance(line, dict)] if isinstance(found, list) else []

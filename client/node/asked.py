"""What this site was asked last, and what became of it: ``state/asked.json``, for the site's page. Newest first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shared_model.core.files import write_json

_MOST = 200


def note_asked(path: Path, task: dict[str, Any]) -> None:
    """Add a task that has ended. The executor alone writes the file."""
    write_json(path, [task, *read_asked(path)][:_MOST], durable=False)


def read_asked(path: Path) -> list[dict[str, Any]]:
    """Return the tasks; none where the file is not there or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [line for line in found if isinstance(line, dict)] if isinstance(found, list) else []

"""Where an event goes: to the file always, and to one of the listener and the log."""

import json
import logging
from pathlib import Path

import pytest

from server.record.events import Event, EventLog

NOTICE = Event(kind="notice", detail="base fitted")


@pytest.mark.parametrize("listens", [False, True])
def test_an_event_is_shown_once(tmp_path: Path, caplog: pytest.LogCaptureFixture, listens: bool) -> None:
    heard: list[Event] = []
    with caplog.at_level(logging.INFO):
        EventLog(tmp_path, heard.append if listens else None)(NOTICE)
    assert [record.getMessage() for record in caplog.records] == ([] if listens else ["notice base fitted"])
    assert heard == ([NOTICE] if listens else [])
    assert json.loads((tmp_path / "events.jsonl").read_text())["detail"] == "base fitted"

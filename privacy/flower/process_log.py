"""Write what a child process prints to a log of JSON lines. The log stays bounded even if the child runs for months."""

from __future__ import annotations

import json
import logging
import re
import threading
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO

LOG_BYTES = 5_000_000
LOG_KEPT = 3
LINE_CHARACTERS = 4000
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def json_line(text: str, **fields: object) -> str:
    """Return one line of a log: UTC time to the millisecond, further fields, the text."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, **fields, "text": text}, ensure_ascii=False, default=str)


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON line: time, level, logger, text, and what ``extra={"fields": {...}}`` adds."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record. Only an exception's type is logged, because its text may hold a patient's name."""
        fields = {"level": record.levelname, "logger": record.name, **getattr(record, "fields", {})}
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = record.exc_info[0].__name__
        return json_line(record.getMessage(), **fields)


class ProcessLog:
    """The log file of one child. ``follow`` copies the child's output into it, line by line, until the output ends."""

    def __init__(self, path: Path) -> None:
        # delay: no file before there is something to write.
        self._handler = RotatingFileHandler(
            path, maxBytes=LOG_BYTES, backupCount=LOG_KEPT, delay=True, encoding="utf-8", errors="replace"
        )

    def follow(self, output: IO[bytes]) -> None:
        """Start a thread that reads ``output`` to its end and then closes it."""
        threading.Thread(target=self._copy, args=(output,), name="process-log", daemon=True).start()

    def write(self, line: str) -> None:
        """Write one line that a program printed: one of our JSON lines as it is, any other as the text of a new one."""
        shown = _COLOUR.sub("", line).rstrip()[:LINE_CHARACTERS]
        if shown:
            record = logging.makeLogRecord({"msg": "%s", "args": (shown if _is_ours(shown) else json_line(shown),)})
            self._handler.handle(record)

    def _copy(self, output: IO[bytes]) -> None:
        with output:
            for line in iter(lambda: output.readline(LINE_CHARACTERS), b""):
                self.write(line.decode("utf-8", "replace"))


def _is_ours(line: str) -> bool:
    if not line.startswith('{"time":'):
        return False
    try:
        json.loads(line)
    except ValueError:
        return False
    return True

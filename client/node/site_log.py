"""The site's own log: JSON lines on standard output, which `client start` keeps in files of bounded size; no PHI.

Our own errors are written for the site's staff and name a file and a key. Anything else may quote a record: the log
gets the type of a foreign exception or warning and the lines of code that it came through, never its text.
"""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from privacy.flower.internals.logs import silence_flowers_handler
from privacy.flower.process_log import JsonFormatter
from shared_model.core.errors import FedKT3DError

SITE_LOGGER = "fedkt3d.site"

_log = logging.getLogger("client.node.executor")


class SiteLog(logging.Handler):
    """Copies what the app logs for the site into the executor's log, without the text of foreign exceptions."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record of `fedkt3d.site`."""
        error = record.exc_info[1] if record.exc_info else None
        what = record.getMessage()
        while isinstance(error, Exception) and not isinstance(error, FedKT3DError) and error.__cause__ is not None:
            error = error.__cause__  # the app wraps what it refuses
        if isinstance(error, FedKT3DError):
            _log.error("%s: %s", what, error)
        elif error is not None:
            log_failure(what, error)
        else:
            _log.error("%s", what)


def log_failure(what: str, error: BaseException) -> None:
    """Log an exception's type and path through the code. Its text stays out: it may hold a patient's name."""
    frames = traceback.extract_tb(error.__traceback__)
    path = " > ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
    _log.error("%s: %s at %s", what, type(error).__name__, path)


def log_to_stdout() -> None:
    """Set up the executor's log; call it once, before anything is logged."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    silence_flowers_handler()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # otherwise it logs a line for every poll
    logging.getLogger(SITE_LOGGER).addHandler(SiteLog())
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    sys.excepthook = _show_crash


def _show_warning(_message: Warning | str, category: type[Warning], filename: str, line: int, *_: Any) -> None:
    _log.warning("%s at %s:%d", category.__name__, Path(filename).name, line)


def _show_crash(_kind: type[BaseException], error: BaseException, _trace: Any) -> None:
    if isinstance(error, FedKT3DError):
        _log.critical("%s", error)
    else:
        log_failure("the executor ended", error)

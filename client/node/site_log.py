"""The site's own log: JSON lines on standard output, which `client start` keeps in files of bounded size; no PHI.

Of what libraries log, and of what ends a thread, the log gets place and type alone.

The texts that a coordinator may read too (of the policy, of a request's fields, of secure sums) are logged as they are.
Any other text may hold a file's name or a case id, and a hospital's names can be a patient's: the log gets the type of
such an error or warning and the lines of code that it came through. `client check` and `client status` say the rest.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any

from privacy.flower.internals.logs import silence_flowers_handler
from privacy.flower.process_log import JsonFormatter
from privacy.secagg.errors import SecAggError
from shared_model.core.errors import FedKT3DError, InputError, PolicyError
from shared_model.core.fields import MessageError
from shared_model.core.files import StorageError

SITE_LOGGER = "fedkt3d.site"

# Their texts name keys, limits and numbers.
_HARMLESS = (PolicyError, SecAggError, MessageError)
_LOOK = "; its text may name files or cases and is not logged: client check, client status"

# The loggers whose texts are written with the log in mind. Flower's are about connections.
_OURS = ("client", "privacy", "shared_model", "fedkt3d", "flwr", "httpx")

_log = logging.getLogger("client.node.executor")


class _PlaceAlone(logging.Filter):
    """Takes the text from the records of other people's libraries: it may quote a value of a file, or its name."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.split(".")[0] not in _OURS:
            record.msg, record.args, record.exc_text = f"at {record.filename}:{record.lineno}", (), None
        return True


class SiteLog(logging.Handler):
    """Copies what the app logs for the site into the executor's log, without texts that may name a file or a case."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record of `fedkt3d.site`."""
        error = record.exc_info[1] if record.exc_info else None
        what = record.getMessage()
        while isinstance(error, Exception) and not isinstance(error, FedKT3DError) and error.__cause__ is not None:
            error = error.__cause__  # the app wraps what it refuses
        if error is None:
            _log.error("%s", what)
        else:
            log_failure(what, error)


def log_failure(what: str, error: BaseException) -> None:
    """Log an exception's type and path through the code; its text only where that cannot hold a name."""
    if isinstance(error, _HARMLESS):
        _log.error("%s: %s", what, error)
        return
    frames = traceback.extract_tb(error.__traceback__)
    path = " > ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
    why = f" ({error.strerror})" if isinstance(error, StorageError) else ""
    look = _LOOK if isinstance(error, InputError) else ""
    _log.error("%s: %s%s at %s%s", what, type(error).__name__, why, path, look)


def log_to_stdout() -> None:
    """Set up the executor's log; call it once, before anything is logged."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(_PlaceAlone())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    silence_flowers_handler()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # otherwise it logs a line for every poll
    logging.getLogger(SITE_LOGGER).addHandler(SiteLog())
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    sys.excepthook = _show_crash
    threading.excepthook = _show_thread
    sys.unraisablehook = _show_unraisable


def _show_warning(_message: Warning | str, category: type[Warning], filename: str, line: int, *_: Any) -> None:
    _log.warning("%s at %s:%d", category.__name__, Path(filename).name, line)


def _show_crash(_kind: type[BaseException], error: BaseException, _trace: Any) -> None:
    log_failure("the executor ended", error)


def _show_thread(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None:
        log_failure("a thread of the executor ended", failed.exc_value)


def _show_unraisable(failed: Any) -> None:
    if failed.exc_value is not None:
        log_failure("something could not be tidied up", failed.exc_value)

"""Repeat calls to the SuperLink through its passing faults.

Flower's own client tries again when nobody answers and at 502, 503 and 504. It gives up at a plain 500, but a busy or
restarting SuperLink does answer 500 ("database is locked"). Every call made here may be made twice without harm.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import httpx

_LOG = logging.getLogger("fedkt3d.server")
_Value = TypeVar("_Value")

TRY_FOR_S = 120.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0


def may_pass(error: httpx.HTTPError) -> bool:
    """Return whether the same call may succeed later. After a 4xx other than 408 and 429 it never does."""
    if not isinstance(error, httpx.HTTPStatusError):
        return True
    code = error.response.status_code
    return code >= 500 or code in (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS)


def call_again(call: Callable[[], _Value], what: str, within_s: float = TRY_FOR_S) -> _Value:
    """Return what ``call`` returns. After a passing fault call again, until ``within_s`` seconds are over.

    Raises the fault when it cannot pass or does not go away.
    """
    end, pause_s = time.monotonic() + within_s, _FIRST_PAUSE_S
    while True:
        try:
            return call()
        except httpx.HTTPError as error:
            if not may_pass(error) or time.monotonic() + pause_s > end:
                raise
            _LOG.warning("%s failed for now (%s)", what, type(error).__name__)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

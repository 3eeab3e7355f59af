"""Waits for what another process will do."""

import time
from collections.abc import Callable


def eventually(condition: Callable[[], object], seconds: float = 30.0) -> bool:
    """Whether ``condition`` holds within ``seconds``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False

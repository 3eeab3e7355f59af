"""How long to pause before asking again for something that is not there yet: briefly at first, longer as time passes.

A pause is a fixed share of the wait so far. So an arrival is noticed at most that share too late, and the number of
questions grows with the logarithm of the wait. Flower pauses for fixed times instead: 3 s after each empty answer and
0.5 s for a reply in a SuperNode's loop, 1 s or more for a part of a message that is still on its way. When a round
trains little, those pauses are most of the round (docs/results/deployed_round.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

SHARE = 0.2
SHORTEST_S = 0.1  # a question over TLS costs both sides a few milliseconds
# How long `until_there` keeps asking. Then it returns to its caller, whose process may have been told to stop.
INSIST_S = 5.0

# Until when (time.monotonic()) parts are waited for. Of the whole process: Flower pulls parts in threads of its own.
_parts_until = float("inf")


class Part(Protocol):
    """The answer of PullObject."""

    @property
    def object_found(self) -> bool: ...  # noqa: D102

    @property
    def object_available(self) -> bool: ...  # noqa: D102


_Part = TypeVar("_Part", bound=Part)


def pause_s(waited_s: float, longest_s: float, shortest_s: float = SHORTEST_S) -> float:
    """Return how long to pause after a wait of ``waited_s``: a share of it, from ``shortest_s`` to ``longest_s``."""
    return min(longest_s, max(shortest_s, SHARE * waited_s))


def until_there(ask: Callable[[], _Part]) -> _Part:
    """Ask for a part of a message until it is there, can never come, or INSIST_S have passed. Return the last answer.

    For PullObject of Flower's Fleet and Runtime clients, which answers at once even if the part is still on its way.
    """
    started = time.monotonic()
    while (part := ask()).object_found and not part.object_available:
        waited_s = time.monotonic() - started
        if waited_s >= INSIST_S or overdue():
            break
        time.sleep(pause_s(waited_s, longest_s=1.0))
    return part


@contextmanager
def parts_until(end: float) -> Iterator[None]:
    """Wait for parts of messages no longer than until ``end`` (time.monotonic()) while the context is open.

    A sender that was killed while it sent leaves a message whose parts never come. Flower waits three minutes for the
    next part, and a ServerApp reads no other answer meanwhile.
    """
    global _parts_until
    _parts_until = end
    try:
        yield
    finally:
        _parts_until = float("inf")


def overdue() -> bool:
    """Return whether the time that `parts_until` gives is over."""
    return time.monotonic() >= _parts_until

"""When to ask again for what is not there yet: soon at first, ever less often the longer it takes.

A pause is a fixed share of the wait so far: what arrives is found that share late at most, and the number of questions
grows with the logarithm of the wait. Flower pauses for fixed times instead: 3 s after each empty answer and 0.5 s for
a reply in a SuperNode's loop, 1 s and more for a part of a message that is still on its way. Where little is trained,
those pauses are most of a round (docs/results/deployed_round.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

SHARE = 0.2
SHORTEST_S = 0.1  # a question over TLS costs both sides some milliseconds
# How long `until_there` insists before it leaves the rest to its caller, whose process may be told to stop meanwhile.
INSIST_S = 5.0


class Part(Protocol):
    """What PullObject answers."""

    @property
    def object_found(self) -> bool: ...  # noqa: D102

    @property
    def object_available(self) -> bool: ...  # noqa: D102


_Part = TypeVar("_Part", bound=Part)


def pause_s(waited_s: float, longest_s: float, shortest_s: float = SHORTEST_S) -> float:
    """Seconds to pause after waiting for ``waited_s``: a share of it, between ``shortest_s`` and ``longest_s``."""
    return min(longest_s, max(shortest_s, SHARE * waited_s))


def until_there(ask: Callable[[], _Part]) -> _Part:
    """Ask for a part of a message until it is there, it will never be, or INSIST_S seconds are over; the last answer.

    For PullObject of Flower's Fleet and Runtime clients, which answers at once for a part that is still on its way.
    """
    started = time.monotonic()
    while (part := ask()).object_found and not part.object_available:
        waited_s = time.monotonic() - started
        if waited_s >= INSIST_S:
            break
        time.sleep(pause_s(waited_s, longest_s=1.0))
    return part

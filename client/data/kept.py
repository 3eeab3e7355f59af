"""Keeps only the latest result for each site, so that a coordinator that keeps changing the model fills no memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Concatenate, ParamSpec, TypeVar

from client.site.config import SiteConfig

# Sites of one process: one in a hospital, all of a study in a simulation.
MOST_SITES = 64

P = ParamSpec("P")
R = TypeVar("R")


def latest_per_site(make: Callable[Concatenate[SiteConfig, P], R]) -> Callable[Concatenate[SiteConfig, P], R]:
    """Remember the last result for each site of ``make(site, *arguments)``; arguments must be hashable and positional.

    Threads that ask for the same at once may both make it; the callers hold a lock where that costs.
    """
    kept: dict[str, tuple[object, R]] = {}

    def lookup(site: SiteConfig, /, *arguments: P.args, **named: P.kwargs) -> R:
        # The folder of derived files does not change them, so the trials of a series share their results.
        asked = (replace(site, cache=None), *arguments)
        found = kept.pop(site.site, None)
        if found is None or found[0] != asked:
            found = None  # drop the old before making the new: never two cohorts in memory
            found = (asked, make(site, *arguments, **named))
        kept[site.site] = found
        while len(kept) > MOST_SITES:
            kept.pop(next(iter(kept)), None)
        return found[1]

    return lookup

"""Keeps what was made last for each site: a coordinator that changes the model again and again fills no memory."""

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
        # Where derived files lie changes none of them: the trials of a series share what they see.
        asked = (replace(site, cache=None), *arguments)
        found = kept.pop(site.site, None)
        if found is None or found[0] != asked:
            found = None  # what was kept goes before the new is made: never two cohorts at once
            found = (asked, make(site, *arguments, **named))
        kept[site.site] = found
        while len(kept) > MOST_SITES:
            kept.pop(next(iter(kept)), None)
        return found[1]

    return lookup

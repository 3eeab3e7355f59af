"""Which benchmarks count, at which size, and which ratios are read from what they print. Less is better in all of them.

A ratio compares two things of one run on one machine, so it means something on another machine too. The sizes are
small: all of them together take some minutes on two cores.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One ratio: what it says, the command after ``python -m``, and how it is read from the command's JSON.

    ``needs``: a package without which it is left out, ``programs``: programs likewise. ``goal``: the most that it
    should be; 0: none is set.
    """

    what: str
    command: tuple[str, ...]
    read: Callable[[Any], float]
    needs: str = ""
    programs: tuple[str, ...] = ()
    goal: float = 0.0

    @property
    def runs_here(self) -> bool:
        """Whether its package and its programs are installed."""
        package = not self.needs or importlib.util.find_spec(self.needs) is not None
        return package and all(map(shutil.which, self.programs))


_ROUND = "simulations.benchmarks.round_overhead"
_SITES = "simulations.benchmarks.sites"
_MASKS = (_ROUND, "--masks", "--sites", "5", "--megabytes", "4", "--rounds", "3", "--repeats", "1", "--json")
_SECAGG = ("simulations.benchmarks.secagg", "--parameters", "1000000", "--sites", "5", "--repeats", "1", "--json")
_PAGE = ("simulations.ratios.console_page", "--json")
# Limits of the coordinator's page: seconds, seconds, megabytes.
PAGE_LIMITS = {"first_paint_s": 1.0, "update_s": 0.2, "memory_mb": 300.0}
_PRIVATE = ("simulations.benchmarks.private_step", "--numbers", "1000000", "--json")


def _secagg(found: Mapping[str, Any], ours: str, theirs: Callable[[Mapping[str, float]], float]) -> float:
    (costs,) = found.values()
    return float(costs["ring-32"][0][ours] / theirs(costs["flwr"][0]))


def _page(figure: str, what: str) -> Benchmark:
    """One figure of the coordinator's page of a large run, beside its limit."""
    return Benchmark(
        what=f"the coordinator's page of a run of 100 sites and 1,000 rounds: {what}",
        command=_PAGE,
        read=lambda found: float(found[figure]) / PAGE_LIMITS[figure],
        needs="selenium",
        programs=("chromium", "chromedriver"),
        goal=1.0,
    )


def _private(found: list[Mapping[str, Any]]) -> float:
    return float(next(row["of_plain_step"] for row in found if row["part"] == "private step"))


BENCHMARKS: Mapping[str, Benchmark] = {
    "masks": Benchmark(
        what="a round under masks beside one without: CPU of coordinator and slowest site, 1M numbers, 5 sites",
        command=_MASKS,
        read=lambda found: float(found["ratio"]),
    ),
    "buffered": Benchmark(
        what="twenty updates with one of five sites 50 times slower: rounds that do not wait beside rounds that do",
        command=(_ROUND, "--slow", "50", "--repeats", "1", "--json"),
        read=lambda found: float(found["ratio"]),
        goal=0.5,
    ),
    "scaling": Benchmark(
        what="CPU of a round a site: 200 sites beside 20, 0.1M numbers",
        command=(_SITES, "--sites", "20", "200", "--megabytes", "0.4", "--rounds", "2", "--ratio", "--json"),
        read=lambda found: float(found["ratio"]),
        goal=1.2,
    ),
    "secagg_client": Benchmark(
        what="a site's masking beside Flower's SecAgg+ without its quantising, 1M numbers, 5 sites",
        command=_SECAGG,
        read=lambda found: _secagg(found, "client_s", lambda peer: peer["client_s"] - peer["quantise_s"]),
    ),
    "secagg_unmask": Benchmark(
        what="unmasking beside Flower's SecAgg+, 1M numbers, 5 sites",
        command=_SECAGG,
        read=lambda found: _secagg(found, "unmask_s", lambda peer: peer["unmask_s"]),
    ),
    "private_step": Benchmark(
        what="a private training step beside a plain one, four patients", command=_PRIVATE, read=_private
    ),
    "page_paint": _page("first_paint_s", "first paint, of 1 s"),
    "page_update": _page("update_s", "an update, of 0.2 s"),
    "page_memory": _page("memory_mb", "the console's memory, of 300 MB"),
    "flower": Benchmark(
        what="a round of 100 sites beside stock Flower's simulation on Ray, 1M numbers, without start-up",
        command=("simulations.ratios.flower_peer", "--sites", "100", "--rounds", "3", "--megabytes", "4", "--json"),
        read=lambda found: float(found["ratio"]),
        needs="ray",
        goal=0.5,
    ),
}

"""Which benchmarks count, at which size, and which ratios are read from what they print. Less is better in all of them.

A ratio compares two things of one run on one machine, so it means something on another machine too. The sizes are
small: all of them together take some minutes on two idle cores.
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
    should be; 0: none is set. ``once``: it takes minutes, so that one repeat alone runs it.
    """

    what: str
    command: tuple[str, ...]
    read: Callable[[Any], float]
    needs: str = ""
    programs: tuple[str, ...] = ()
    goal: float = 0.0
    once: bool = False

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
_READING = ("simulations.benchmarks.dicom_reading", "--json")
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


def _reading(found: Mapping[str, Any], ours: str, loop: str) -> float:
    return float(found["cpu_s"][ours] / found["cpu_s"][loop])


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
    "scaling_numbers": Benchmark(
        what="CPU of a round a number: 5M numbers beside 0.5M, 20 sites",
        command=(_SITES, "--sites", "20", "--megabytes", "2", "20", "--rounds", "2", "--ratio", "--json"),
        read=lambda found: float(found["ratio"]),
        goal=1.2,
    ),
    "wire": Benchmark(
        what="bytes of a round beside those of its vectors, a site: 1M numbers",
        command=(_SITES, "--sites", "5", "--rounds", "2", "--json"),
        read=lambda found: float(found["wire_ratio"]),
        goal=1.05,
    ),
    "wire_masks": Benchmark(
        what="the same under masks, 32 bits a number",
        command=_MASKS,
        read=lambda found: float(found["masked_mb_a_site"] / (2 * 4 * found["millions"])),
        goal=1.05,
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
    "opacus": Benchmark(
        what="gradients of single patients: our loop beside Opacus' hooks, small 3-D network, eight patients of 16^3",
        command=("simulations.ratios.opacus_peer", "--json"),
        read=lambda found: float(found["ratio"]),
    ),
    "step_bf16": Benchmark(
        what="a training step of the small U-shaped network at 32^3: bf16 beside float32 (1 where a CPU has no bf16)",
        command=("simulations.ratios.step_precision", "--json"),
        read=lambda found: float(found["ratio"]),
    ),
    "sampling": Benchmark(
        what="a dose in four steps: conditions remembered beside computed at each step, the same network at 32^3",
        command=("simulations.ratios.remembered", "--json"),
        read=lambda found: float(found["ratio"]),
    ),
    "reading": Benchmark(
        what="reading a DICOM study with a CT of 512 x 512 x 100, without plates, beside a plain loop over contours",
        command=_READING,
        read=lambda found: _reading(found, "study: ours, without plates", "study: plain loop, without plates"),
    ),
    "reading_structures": Benchmark(
        what="its structures alone, likewise",
        command=_READING,
        read=lambda found: _reading(found, "structures: ours", "structures: plain loop"),
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
    "nvflare": Benchmark(
        what="a round of 100 sites beside NVFlare's simulator with 4 processes, 1M numbers, without start-up; one run",
        command=("simulations.ratios.nvflare_peer", "--rounds", "2", "--peer-workers", "4", "--json"),
        read=lambda found: float(found["ratio"]),
        programs=("nvflare",),
        goal=0.5,
        once=True,
    ),
}

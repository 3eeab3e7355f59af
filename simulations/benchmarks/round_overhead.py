"""What masks and slow sites cost a round, each beside a round without them in the same run.

``python -m simulations.benchmarks.round_overhead --masks [--json]``: rounds of mode masked beside rounds of mode none,
with the same updates. Sites are on machines of their own. So a round is the CPU seconds of the coordinator and of the
slowest site, without training and without the network; a set-up of keys is counted among them. Goal: 1.5 times mode
none at 5 million numbers.

``--slow 50``: one site of five takes 50 times as long as the others: seconds until a number of updates have gone into
the vector, by rounds that wait for all and by rounds that end with four (rounds.buffer). Goal: half the time.

What a round costs by how many sites there are: simulations/benchmarks/sites.py.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.app import client_app
from client.site.config import SiteConfig
from privacy.wire.messages import TrainTask
from server.config.compose import compose_run
from server.config.run import RunConfig
from shared_model.core.vector import Vector
from simulations.benchmarks.printing import print_numbers
from simulations.engine.faults import site_of
from simulations.engine.quadratic import QuadraticTraining, run_quadratic, write_sites

GOAL_RATIO = 1.5
_PATIENTS = 10
_TASK_S = 0.05


class _Ready(QuadraticTraining):
    """Has its update ready: what is left is the round."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._update = (0.01 * np.random.default_rng(0).standard_normal(size)).astype(np.float32)

    def train_round(
        self, site: SiteConfig, spec_json: str, vector: Vector, task: TrainTask
    ) -> tuple[Vector, Mapping[str, float]]:
        """Return the same update each time."""
        return self._update, {"loss": 1.0}


def _timed(inner: ClientApp, seconds: dict[str, float]) -> ClientApp:
    """Wrap a site's app; adds the CPU seconds of each site's answers to ``seconds``."""

    def answer(message: Message, context: Context) -> Message:
        started = time.thread_time()
        told = inner(message, context)
        seconds[site_of(context)] += time.thread_time() - started
        return told

    app = ClientApp()
    for register in (app.query(), app.train(), app.evaluate()):
        register(answer)
    return app


def _run(mode: str, size: int, sites: int, rounds: int) -> tuple[float, float, float]:
    """Return CPU seconds a round of the coordinator and of the slowest site, and megabytes a site and round."""
    names = {f"site-{i:02d}": _PATIENTS for i in range(sites)}
    plain: RunConfig = replace(compose_run(["privacy.mode=none"]), model={})
    config = replace(
        plain,
        rounds=replace(plain.rounds, count=rounds, min_sites=sites, evaluate_every=0, max_update_norm=100.0),
        privacy=replace(plain.privacy, mode=mode, sites=sites, cohort=_PATIENTS * sites),
    )
    seconds: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as folder:
        nodes = write_sites(Path(folder), names)
        app = _timed(client_app(_Ready(size)), seconds)
        before = time.process_time()
        result = run_quadratic(Path(folder) / "out", config, nodes, size=size, app=app)
        spent = time.process_time() - before
    coordinator = (spent - sum(seconds.values())) / rounds
    return coordinator, max(seconds.values()) / rounds, result.wire_bytes_per_round / sites / 1e6


def measure_masks(millions: float, sites: int, rounds: int, repeats: int) -> dict[str, float]:
    """Median over repeats, the two modes by turns."""
    found: dict[str, list[tuple[float, float, float]]] = {"none": [], "masked": []}
    for _ in range(repeats):
        for mode, runs in found.items():
            runs.append(_run(mode, int(millions * 1e6), sites, rounds))
    told: dict[str, float] = {"millions": millions, "sites": sites, "rounds": rounds, "repeats": repeats}
    total = {}
    for mode, runs in found.items():
        coordinator, site, wire = np.median(np.array(runs), axis=0)
        total[mode] = coordinator + site
        told |= {
            f"{mode}_coordinator_s": round(float(coordinator), 3),
            f"{mode}_site_s": round(float(site), 3),
            f"{mode}_mb_a_site": round(float(wire), 3),
        }
    ratios = [(m[0] + m[1]) / (n[0] + n[1]) for m, n in zip(found["masked"], found["none"], strict=True)]
    return {
        **told,
        "ratio": round(float(total["masked"] / total["none"]), 2),
        "ratio_low": round(min(ratios), 2),
        "ratio_high": round(max(ratios), 2),
        "goal": GOAL_RATIO,
    }


def _seconds_of(buffer: int, rounds: int, slow: float) -> tuple[float, int]:
    """Wall seconds of a run of five sites, the last ``slow`` times slower, and how many updates went in."""
    names = {f"site-{i}": _PATIENTS for i in range(5)}
    plain = replace(compose_run(["privacy.mode=none", "rounds.min_sites=4"]), model={})
    config = replace(plain, rounds=replace(plain.rounds, count=rounds, evaluate_every=0, buffer=buffer))
    app = client_app(QuadraticTraining(1000, delay=lambda site, _: _TASK_S * (slow if site == "site-4" else 1.0)))
    with tempfile.TemporaryDirectory() as folder:
        nodes = write_sites(Path(folder), names)
        started = time.perf_counter()
        result = run_quadratic(Path(folder) / "out", config, nodes, size=1000, app=app, workers=5)
        return time.perf_counter() - started, sum(len(record.sites) for record in result.history)


def measure_slow(slow: float, repeats: int) -> dict[str, float]:
    """Twenty updates either way: four rounds of five sites, or five of four."""
    found = [(_seconds_of(0, 4, slow), _seconds_of(4, 5, slow)) for _ in range(repeats)]
    ratios = [buffered / waited for (waited, _), (buffered, _) in found]
    return {
        "slow": slow,
        "repeats": repeats,
        "updates_waiting": found[0][0][1],
        "updates_buffered": found[0][1][1],
        "waiting_s": round(float(np.median([waited for (waited, _), _ in found])), 2),
        "buffered_s": round(float(np.median([buffered for _, (buffered, _) in found])), 2),
        "ratio": round(float(np.median(ratios)), 3),
        "ratio_low": round(min(ratios), 3),
        "ratio_high": round(max(ratios), 3),
        "goal": 0.5,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--masks", action="store_true", help="modes masked and none by turns, --repeats times")
    what.add_argument("--slow", type=float, help="one site of five is so many times slower")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sites", type=int, default=5, help="of --masks")
    parser.add_argument("--rounds", type=int, default=3, help="of --masks")
    parser.add_argument("--megabytes", type=float, default=20.0, help="of --masks: a vector, 4 bytes a number")
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of a table")
    args = parser.parse_args()
    if args.masks:
        found = measure_masks(args.megabytes / 4, args.sites, args.rounds, args.repeats)
        print_numbers("Masks beside none", found, as_json=args.json)
    else:
        print_numbers("Rounds that do not wait", measure_slow(args.slow, args.repeats), as_json=args.json)


if __name__ == "__main__":
    main()

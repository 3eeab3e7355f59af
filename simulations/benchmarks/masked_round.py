"""What masks cost: rounds of mode masked beside rounds of mode none, with the same updates, in one run.

``python -m simulations.benchmarks.masked_round [--json] [--millions 5 --sites 5]``. Goal: at 5 million numbers a round
of mode masked, without training, takes at most 1.5 times that of mode none.

Sites are on machines of their own. So a round is the CPU seconds of the coordinator and of the slowest site, without
training and without the network. Keys are set up once for up to 16 rounds; the set-up is counted among them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
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

GOAL = 1.5
_PATIENTS = 10


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


def _timed(inner: ClientApp, seconds: Counter[str]) -> ClientApp:
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
    seconds: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        nodes = write_sites(Path(folder), names)
        app = _timed(client_app(_Ready(size)), seconds)
        before = time.process_time()
        result = run_quadratic(Path(folder) / "out", config, nodes, size=size, app=app)
        spent = time.process_time() - before
    coordinator = (spent - sum(seconds.values())) / rounds
    return coordinator, max(seconds.values()) / rounds, result.wire_bytes_per_round / sites / 1e6


def measure(millions: float, sites: int, rounds: int, repeats: int) -> dict[str, float]:
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
            f"{mode}_mb_a_site": round(float(wire), 1),
        }
    ratios = [(m[0] + m[1]) / (n[0] + n[1]) for m, n in zip(found["masked"], found["none"], strict=True)]
    return {
        **told,
        "ratio": round(float(total["masked"] / total["none"]), 2),
        "ratio_low": round(min(ratios), 2),
        "ratio_high": round(max(ratios), 2),
        "goal": GOAL,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, default=5.0, help="numbers of an update, in millions")
    parser.add_argument("--sites", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args()
    numbers = measure(args.millions, args.sites, args.rounds, args.repeats)
    print_numbers("Masks beside none", numbers, as_json=args.json)


if __name__ == "__main__":
    main()

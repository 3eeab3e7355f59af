"""What a round costs beside training: a trivial client, a 5 MB vector, 100 sites and 3 rounds over LocalGrid.

``python -m simulations.benchmarks.round_overhead [--json]``. Goal: 3 s in all, on 2 cores.

With ``--masks`` it measures rounds of mode masked beside rounds of mode none, with the same updates, in one run. Sites
are on machines of their own. So a round is the CPU seconds of the coordinator and of the slowest site, without training
and without the network; a set-up of keys is counted among them. Goal: 1.5 times mode none at 5 million numbers.

With ``--tree 100`` a hundred regions sum for the coordinator, with ``--processes`` on all cores. Several numbers of
``--sites`` are measured one after the other, and ``--plot FILE`` draws the seconds of a round over them.

With ``--slow 50`` one site of five takes 50 times as long as the others: seconds until a number of updates have gone
into the vector, by rounds that wait for all and by rounds that end with four (rounds.buffer). Goal: half the time.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from client.app import client_app
from client.site.config import SiteConfig
from privacy.wire.messages import Reply, TrainTask, parse_request, reply
from server.config.compose import compose_run
from server.config.run import RunConfig
from server.rounds.loop import run_federation
from server.rounds.result import FederationResult
from shared_model.core.vector import Vector
from simulations.benchmarks.printing import print_numbers
from simulations.engine.faults import site_of
from simulations.engine.quadratic import QuadraticTraining, run_quadratic, write_sites
from simulations.engine.run import LocalGrid, ProcessGrid, run_local
from simulations.engine.tree import Tree
from simulations.reports.curves import curves_picture

GOAL_S = 3.0
GOAL_RATIO = 1.5
_PATIENTS = 10
_TASK_S = 0.05


def trivial_client(size: int) -> ClientApp:
    """Return an app that answers any request at once, train with one fixed vector."""
    update = np.full(size, 1e-3, dtype=np.float32)

    def answer(message: Message, context: Context) -> Message:
        asked = parse_request(message.content)
        site = f"site-{context.node_config['site']}"
        content = reply(
            Reply(
                kind=asked.kind,
                site=site,
                round=asked.round,
                run_id=asked.run_id,
                patients=1,
                vector=update if asked.kind == "train" else None,
            )
        )
        return Message(content, reply_to=message)

    app = ClientApp()
    for register in (app.query(), app.train(), app.evaluate()):
        register(answer)
    return app


def measure(
    sites: int, rounds: int, megabytes: float, workers: int, tree: int = 0, kind: type[LocalGrid] = LocalGrid
) -> dict[str, float]:
    """One federation of trivial sites; ``tree``: regions that sum for the coordinator (simulations/engine/tree.py)."""
    size = int(megabytes * 1e6 / 4)
    config = compose_run(
        ["privacy.mode=none", f"rounds.count={rounds}", f"rounds.min_sites={tree or sites}", "rounds.evaluate_every=0"]
    )
    app = trivial_client(size)
    nodes: list[UserConfig] = [{"site": i} for i in range(sites)]
    if tree:
        floor = Tree.of(app, nodes, tree, config)
        app, nodes = floor.region_app(), floor.nodes()
    initial = np.zeros(size, dtype=np.float32)
    started, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:

        def server(grid: Grid, _: Context) -> FederationResult:
            return run_federation(grid, config, "{}", "0" * 64, initial, Path(folder))

        result = run_local(app, server, nodes, {}, workers, kind)
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    assert result is not None
    assert result.rounds == rounds
    return {
        "sites": sites,
        "regions": tree,
        "rounds": rounds,
        "vector_mb": megabytes,
        "workers": workers,
        "wall_s": round(wall_s, 3),
        "cpu_s": round(cpu_s, 3),
        "replies_per_s": round(sites * rounds / wall_s, 1),
        "wire_mb_per_round": round(result.wire_bytes_per_round / 1e6, 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "goal_s": GOAL_S,
    }


def measure_scaling(few: int, many: int, rounds: int, megabytes: float) -> dict[str, float]:
    """CPU seconds of a site and round with few sites and with many; a ratio of 1 is linear."""
    measure(few, 1, megabytes, 1)  # what is done once in a process
    costs = [measure(sites, rounds, megabytes, 1)["cpu_s"] / (sites * rounds) for sites in (few, many)]
    return {
        "few": few,
        "many": many,
        "few_ms": round(1e3 * costs[0], 3),
        "many_ms": round(1e3 * costs[1], 3),
        "ratio": round(costs[1] / costs[0], 3),
    }


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
            f"{mode}_mb_a_site": round(float(wire), 1),
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
    parser.add_argument("--masks", action="store_true", help="modes masked and none by turns, --repeats times")
    parser.add_argument("--slow", type=float, help="one site of five is so many times slower")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sites", type=int, nargs="+", default=[100])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=float, default=5.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print a JSON object a line instead of tables")
    parser.add_argument("--scaling", type=int, nargs=2, metavar=("FEW", "MANY"), help="CPU a site and round, by sites")
    parser.add_argument("--tree", type=int, default=0, help="regions between coordinator and sites; 0: none")
    parser.add_argument("--processes", action="store_true", help="workers are processes, not threads")
    parser.add_argument("--plot", type=Path, help="PNG of the seconds of a round over several --sites")
    args = parser.parse_args()
    if args.scaling:
        few, many = args.scaling
        found = measure_scaling(few, many, args.rounds, args.megabytes)
        print_numbers("Scaling in sites", found, as_json=args.json)
        return
    if args.masks and len(args.sites) > 1:
        parser.error("--masks takes one number of --sites")
    if args.masks:
        found = measure_masks(args.megabytes / 4, args.sites[0], args.rounds, args.repeats)
        print_numbers("Masks beside none", found, as_json=args.json)
        return
    if args.slow:
        print_numbers("Rounds that do not wait", measure_slow(args.slow, args.repeats), as_json=args.json)
        return
    kind = ProcessGrid if args.processes else LocalGrid
    measured = []
    for sites in args.sites:
        measured.append(measure(sites, args.rounds, args.megabytes, args.workers, args.tree, kind))
        print_numbers("Round overhead of LocalGrid", measured[-1], as_json=args.json)
    if args.plot:
        curves = {what: [(n["sites"], n[f"{what}_s"] / args.rounds) for n in measured] for what in ("wall", "cpu")}
        curves_picture(args.plot, curves, "sites", f"seconds a round of {args.megabytes:g} MB a site")


if __name__ == "__main__":
    main()

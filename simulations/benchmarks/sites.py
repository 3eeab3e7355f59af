"""What rounds cost by how many sites there are: a trivial client, so that only the rounds are left, over LocalGrid.

``python -m simulations.benchmarks.sites --sites 1000 --rounds 5 --json``: wall and CPU seconds, memory and bytes of
rounds with a vector of 1 million numbers (4 MB) each way. Goals: 60 s and 2 GB; 1.05 times the vector's own bytes.

With ``--tree 100`` a hundred regions sum for the coordinator, with ``--processes`` on all cores. Several numbers of
``--sites`` and of ``--megabytes`` are measured one after the other, and ``--plot FILE`` draws the seconds of a round
over the sites. ``--ratio`` compares the last size with the first one: CPU of a round a site and number, where 1 is
linear and the goal is 1.2.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from privacy.wire.messages import Reply, parse_request, reply
from server.config.compose import compose_run
from server.rounds.loop import run_federation
from server.rounds.result import FederationResult
from simulations.benchmarks.printing import print_numbers
from simulations.engine.run import LocalGrid, ProcessGrid, run_local
from simulations.engine.tree import Tree
from simulations.reports.curves import curves_picture


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
    started, cpu = time.perf_counter(), _cpu_s()
    with tempfile.TemporaryDirectory() as folder:

        def server(grid: Grid, _: Context) -> FederationResult:
            return run_federation(grid, config, "{}", "0" * 64, initial, Path(folder))

        result = run_local(app, server, nodes, {}, workers, kind)
    wall_s, cpu_s = time.perf_counter() - started, _cpu_s() - cpu
    assert result is not None
    assert result.rounds == rounds
    return {
        "sites": sites,
        "regions": tree,
        "rounds": rounds,
        "vector_mb": megabytes,
        "workers": workers,
        "wall_s": round(wall_s, 3),
        "cpu_s": round(cpu_s, 6),
        "replies_per_s": round(sites * rounds / wall_s, 1),
        "wire_mb_per_round": round(result.wire_bytes_per_round / 1e6, 1),
        "wire_ratio": round(result.wire_bytes_per_round / (2 * len(nodes) * initial.nbytes), 4),
        "peak_gb": round(_peak_gb(workers if kind is ProcessGrid else 0), 3),
    }


def _cpu_s() -> float:
    """CPU seconds of this process and of those that it started and that have ended."""
    # Not os.times(): its clock ticks every 10 ms, in which a round of a few small sites is over.
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in spent)


def _peak_gb(processes: int) -> float:
    """Peak of this process, and of so many others that ended, each counted as the largest of them.

    So it is an upper bound: pages that a fork shares are counted once for each process.
    """
    own, other = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return (own + processes * other) / 1e6


def measure_scaling(few: tuple[int, float], many: tuple[int, float], rounds: int) -> dict[str, float]:
    """CPU seconds of a round a site and million numbers at two sizes (sites, megabytes); a ratio of 1 is linear."""
    measure(few[0], 1, few[1], 1)  # what is done once in a process
    costs = []
    for sites, megabytes in (few, many):
        costs.append(measure(sites, rounds, megabytes, 1)["cpu_s"] / (sites * rounds * megabytes / 4))
    return {
        "few_sites": few[0],
        "many_sites": many[0],
        "few_mb": few[1],
        "many_mb": many[1],
        "few_ms": round(1e3 * costs[0], 3),
        "many_ms": round(1e3 * costs[1], 3),
        "ratio": round(costs[1] / costs[0], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, nargs="+", default=[100])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[4.0])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tree", type=int, default=0, help="regions between coordinator and sites; 0: none")
    parser.add_argument("--processes", action="store_true", help="workers are processes, not threads")
    parser.add_argument("--plot", type=Path, help="PNG of the seconds of a round over several --sites")
    parser.add_argument("--ratio", action="store_true", help="CPU a site and number: the last size beside the first")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line instead of tables")
    args = parser.parse_args()
    sizes = list(itertools.product(args.sites, args.megabytes))
    if args.ratio:
        if len(sizes) < 2:
            parser.error("--ratio: expected two numbers of --sites or of --megabytes")
        print_numbers("Scaling", measure_scaling(sizes[0], sizes[-1], args.rounds), as_json=args.json)
        return
    kind = ProcessGrid if args.processes else LocalGrid
    measured = []
    for sites, megabytes in sizes:
        measured.append(measure(sites, args.rounds, megabytes, args.workers, args.tree, kind))
        print_numbers("Rounds of a trivial client", measured[-1], as_json=args.json)
    if args.plot:
        curves = {
            f"{what}, {megabytes:g} MB": [
                (row["sites"], row[f"{what}_s"] / args.rounds) for row in measured if row["vector_mb"] == megabytes
            ]
            for megabytes in args.megabytes
            for what in ("wall", "cpu")
        }
        curves_picture(args.plot, curves, "sites", "seconds a round")


if __name__ == "__main__":
    main()

"""What a round costs beside training: a trivial client, a 5 MB vector, 100 sites and 3 rounds over LocalGrid.

``python -m simulations.benchmarks.round_overhead [--json]``. Goal: 3 s in all, on 2 cores.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from privacy.wire.messages import Reply, parse_request, reply
from server.config.compose import compose_run
from server.rounds.loop import FederationResult, run_federation
from simulations.benchmarks.printing import print_numbers
from simulations.engine.run import run_local

GOAL_S = 3.0


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


def measure(sites: int, rounds: int, megabytes: float, workers: int) -> dict[str, float]:
    size = int(megabytes * 1e6 / 4)
    config = compose_run(
        ["privacy.mode=none", f"rounds.count={rounds}", f"rounds.min_sites={sites}", "rounds.evaluate_every=0"]
    )
    initial = np.zeros(size, dtype=np.float32)
    started, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:

        def server(grid: Grid, _: Context) -> FederationResult:
            return run_federation(grid, config, "{}", "0" * 64, initial, Path(folder))

        result = run_local(trivial_client(size), server, [{"site": i} for i in range(sites)], {}, workers)
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    assert result is not None
    assert result.rounds == rounds
    return {
        "sites": sites,
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=float, default=5.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args()
    numbers = measure(args.sites, args.rounds, args.megabytes, args.workers)
    print_numbers("Round overhead of LocalGrid", numbers, as_json=args.json)


if __name__ == "__main__":
    main()

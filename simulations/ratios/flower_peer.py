"""A round of stock Flower's simulation (Ray) beside one of ours, in one run.

``python -m simulations.ratios.flower_peer [--sites 100] [--rounds 3] [--megabytes 4] [--json]``. Both have a trivial
client that answers with a vector of the same size, and the mean. The time of a round leaves the start-up out, which is
given apart. Needs the extra ``ray``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from simulations.benchmarks.printing import print_numbers
from simulations.benchmarks.round_overhead import measure


class _Timed(FedAvg):
    """Stock FedAvg that notes when each round was aggregated."""

    def __init__(self, sites: int) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
        self.times: list[float] = []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate as stock, then note the time."""
        found = super().aggregate_train(server_round, replies)
        self.times.append(time.perf_counter())
        return found


def stock(sites: int, rounds: int, size: int, workers: int) -> dict[str, float]:
    """Seconds of stock Flower: of a round after the first, and of all with the start of Ray."""
    client = ClientApp()

    @client.train()
    def _train(message: Message, context: Context) -> Message:
        content = RecordDict({"arrays": ArrayRecord([np.full(size, 1e-3, np.float32)])})
        content["metrics"] = MetricRecord({"num-examples": 1})
        return Message(content, reply_to=message)

    strategy, server = _Timed(sites), ServerApp()

    @server.main()
    def _main(grid: Grid, context: Context) -> None:
        strategy.start(grid=grid, initial_arrays=ArrayRecord([np.zeros(size, np.float32)]), num_rounds=rounds)

    started = time.perf_counter()
    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=sites,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": workers}},
    )
    whole = time.perf_counter() - started
    return {"round_s": (strategy.times[-1] - strategy.times[0]) / (rounds - 1), "whole_s": whole}


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=float, default=4.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.rounds < 2:
        parser.error("--rounds: expected 2 or more, since the first one holds the start-up")
    ours = measure(asked.sites, asked.rounds, asked.megabytes, asked.workers)
    theirs = stock(asked.sites, asked.rounds, int(asked.megabytes * 1e6 / 4), asked.workers)
    round_s = ours["wall_s"] / asked.rounds
    numbers = {
        "sites": asked.sites,
        "rounds": asked.rounds,
        "ours_round_s": round(round_s, 3),
        "flower_round_s": round(theirs["round_s"], 3),
        "ours_whole_s": ours["wall_s"],
        "flower_whole_s": round(theirs["whole_s"], 1),
        "ratio": round(round_s / theirs["round_s"], 3),
        "goal": 0.5,
    }
    print_numbers("A round beside stock Flower's simulation", numbers, as_json=asked.json)


if __name__ == "__main__":
    main()

"""A round of stock Flower's simulation (Ray) beside one of ours, in one run.

``python -m simulations.ratios.flower_peer [--sites 100] [--rounds 3] [--megabytes 4] [--json]``. Both have a trivial
client that answers with a vector of the same size, and the mean. The time of a round leaves the start-up out, which is
given apart. Needs the extra ``ray``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from simulations.ratios.peer_round import options, print_beside


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
    asked = options(__doc__).parse_args()
    title = "A round beside stock Flower's simulation"
    print_beside("flower", title, asked, lambda size: stock(asked.sites, asked.rounds, size, asked.workers))


if __name__ == "__main__":
    main()

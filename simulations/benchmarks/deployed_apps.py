"""Apps of the deployed benchmark: real rounds, exchange and aggregation, with nothing trained.

Run as `python -m simulations.benchmarks.deployed_apps HOME ADDRESS` it is a site's executor with the trivial app in the
place of client.app. `STOCK` is the same work as an app of stock Flower, as its own documentation would write it.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from client.node import executor
from privacy.wire.messages import Reply, parse_request, reply
from server.config.compose import compose_run
from server.record.events import Event
from server.rounds.loop import run_federation

SITES = 2
app = ClientApp()
server_app = ServerApp()


def _values(size: int, *seed: int) -> NDArray[np.float32]:
    """Values that differ everywhere: Flower stores and sends equal parts of arrays, 5 MB each, only once."""
    return (np.random.default_rng(seed).random(size, dtype=np.float32) - np.float32(0.5)) * np.float32(1e-3)


@app.query()
@app.train()
def _answer(message: Message, context: Context) -> Message:
    asked = parse_request(message.content)
    update = None if asked.vector is None else _values(asked.vector.size, message.metadata.dst_node_id, asked.round)
    site = Path(str(context.node_config["site-config"])).parent.name
    content = reply(
        Reply(kind=asked.kind, site=site, round=asked.round, run_id=asked.run_id, patients=1, vector=update)
    )
    return Message(content, reply_to=message)


@server_app.main()
def _main(grid: Grid, context: Context) -> None:
    out, values = Path(str(context.run_config["out"])), int(str(context.run_config["config"]))
    rounds = int(str(context.run_config["config-sha256"]))
    ends: list[float] = []

    def note(event: Event) -> None:
        if event.kind in ("round_started", "round_done"):
            ends.append(time.time())

    config = compose_run(
        ["privacy.mode=none", f"rounds.count={rounds}", f"rounds.min_sites={SITES}", "rounds.evaluate_every=0"]
    )
    run_federation(grid, config, "{}", "0" * 64, _values(values, 0), out, note)
    # From the first start to each end; what lies between an end and the next start (checkpoint) counts.
    (out / "times.json").write_text(json.dumps([ends[0], *ends[1::2]]))


STOCK = """\
import json, time
from pathlib import Path
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()

def values(size, *seed):
    return (np.random.default_rng(seed).random(size, dtype=np.float32) - np.float32(0.5)) * np.float32(1e-3)

@client.train()
def train(message, context):
    arrays = message.content["arrays"].to_numpy_ndarrays()
    update = [array + values(array.size, context.node_id, int(message.metadata.group_id)) for array in arrays]
    content = RecordDict({"arrays": ArrayRecord(update), "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, reply_to=message)

@server.main()
def main(grid, context):
    size, rounds = int(context.run_config["config"]), int(context.run_config["config-sha256"])
    times = []
    while len(list(grid.get_node_ids())) < 2:
        time.sleep(0.2)
    FedAvg(fraction_evaluate=0.0, min_available_nodes=2).start(
        grid, ArrayRecord([values(size, 0)]), num_rounds=rounds,
        evaluate_fn=lambda number, arrays: times.append(time.time()),
    )
    Path(context.run_config["out"], "times.json").write_text(json.dumps(times))
"""


if __name__ == "__main__":
    vars(executor)["installed_app"] = app
    executor.main()

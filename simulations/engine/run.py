"""Engines for a deployment's ServerApp and ClientApp: threads (default) or processes of this one, or Flower on Ray."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import grpc
from flwr.app import Context, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from privacy.flower.internals.codes import SUPERLINK_NODE_ID
from shared_model.core.errors import InputError
from simulations.engine.local_grid import LocalGrid as LocalGrid
from simulations.engine.local_grid import NoAnswer as NoAnswer
from simulations.engine.process_grid import ProcessGrid as ProcessGrid

_Result = TypeVar("_Result")
# How long a cluster's head may take to answer.
_ANSWER_S = 5.0


def run_local(
    client_app: ClientApp,
    server: ServerApp | Callable[[Grid, Context], _Result],
    node_configs: Sequence[UserConfig],
    run_config: Mapping[str, str | int | float | bool],
    workers: int = 1,
    kind: type[LocalGrid] = LocalGrid,
) -> _Result | None:
    """Run a ServerApp, or a function with its signature, over LocalGrid; returns what the function returns.

    For the project's own apps: ``client.app.app``, ``server.app.app`` (or ``server.app.federate`` with an event
    listener), one ``{"site-config": path}`` a node and ``server.app.run_config(config, out)``. ``kind``: with
    ProcessGrid the sites work in processes.
    """
    with kind(client_app, node_configs, workers=workers) as grid:
        context = Context(
            run_id=grid.run.run_id,
            node_id=SUPERLINK_NODE_ID,
            node_config={},
            state=RecordDict(),
            run_config=dict(run_config),
        )
        return server(grid, context)


def run_ray(
    client_app: ClientApp,
    server: ServerApp | Callable[[Grid, Context], _Result],
    node_configs: Sequence[UserConfig],
    run_config: Mapping[str, str | int | float | bool],
    workers: int = 1,
    address: str | None = None,
) -> _Result | None:
    """Run the same apps on Flower's simulation engine over Ray; returns and raises what ``server`` does.

    ``address``: HOST:PORT of the head of a running cluster, whose CPUs then count instead of ``workers``; None: a Ray
    of this machine that ends with the run. Raises InputError where the extra is not installed or no cluster answers.
    """
    if importlib.util.find_spec("ray") is None:
        raise InputError("engine=ray: Ray is not installed; install fedkt3d[ray] or use engine=local")
    # "local": else Ray would join whatever cluster it finds on this machine.
    ray: dict[str, Any] = (
        {"address": "local", "num_cpus": workers} if address is None else {"address": _answering(address)}
    )
    from flwr.simulation import run_simulation

    results: list[_Result | None] = []
    errors: list[Exception] = []
    coordinator = ServerApp()

    @coordinator.main()
    def _main(grid: Grid, context: Context) -> None:
        context.run_config = dict(run_config)
        try:
            results.append(server(grid, context))
        except Exception as error:  # Flower would replace it with its own error
            errors.append(error)

    run_simulation(
        server_app=coordinator,
        client_app=_with_node_configs(client_app, node_configs),
        num_supernodes=len(node_configs),
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": ray},
    )
    if errors:
        raise errors[0]
    return results[0]


def _answering(address: str) -> str:
    """The address, once a gRPC server as Ray's head is answers: Ray would ask for minutes. InputError without one."""
    channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
    try:
        grpc.channel_ready_future(channel).result(_ANSWER_S)
    except grpc.FutureTimeoutError as error:
        port = address.rpartition(":")[2]
        raise InputError(
            f"address={address}: no Ray cluster answers there within {_ANSWER_S:g} s; start its head with"
            f" `ray start --head --port={port}`"
        ) from error
    finally:
        channel.close()
    return address


def _with_node_configs(client_app: ClientApp, node_configs: Sequence[UserConfig]) -> ClientApp:
    """Flower's engine gives a node only its partition's number. Replace it by the node config that the app expects."""
    configs = [dict(config) for config in node_configs]

    def answer(message: Message, context: Context) -> Message:
        context.node_config = {**context.node_config, **configs[int(context.node_config["partition-id"])]}
        return client_app(message, context)

    app = ClientApp()
    for register in (app.query(), app.train(), app.evaluate()):
        register(answer)
    return app

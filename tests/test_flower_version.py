"""Flower's internals that we import, by module and name: what to look at before the pin in pyproject.toml moves."""

import importlib
import re
from importlib.metadata import version

import pytest

# (module, names, where we use them)
INTERNALS = [
    ("flwr.app.message", ["make_message"], "simulations/engine/local_grid.py"),
    ("flwr.common.constant", ["SUPERLINK_NODE_ID", "ErrorCode"], "simulations/engine/local_grid.py"),
    ("flwr.supercore.run", ["Run"], "simulations/engine/local_grid.py"),
    ("flwr.common.constant", ["ErrorCode", "SubStatus"], "client/node/executor.py"),
    ("flwr.proto.runtime_pb2", ["AcquireTaskRequest"], "client/node/executor.py"),
    ("flwr.supercore.constant", ["TaskType"], "client/node/executor.py"),
    ("flwr.supercore.heartbeat", ["HeartbeatSender", "make_task_heartbeat_fn_http"], "client/node/executor.py"),
    (
        "flwr.supercore.interceptors",
        ["RuntimeTokenHttpInterceptor", "RuntimeVersionHttpInterceptor", "SuperExecAuthHttpInterceptor"],
        "client/node/executor.py",
    ),
    ("flwr.supercore.retry", ["make_simple_http_retry_invoker"], "client/node/executor.py"),
    ("flwr.supercore.runtime", ["RuntimeHttpClient"], "client/node/executor.py"),
    (
        "flwr.supernode.runtime.run_clientapp",
        ["pull_task_input", "push_message", "push_task_output"],
        "client/node/executor.py",
    ),
    (
        "flwr.supercore.logger",
        ["LOGGER_NAME", "console_handler"],
        "client/node/site_log.py, server/deployment/superlink.py",
    ),
    ("flwr.supernode.cli.flower_supernode", ["flower_supernode"], "client/node/supernode.py"),
    ("flwr.supernode.fleet_http_connection", ["FleetHttpClient"], "client/node/supernode.py"),
    ("flwr.supernode.fleet_http_client", ["FleetHttpClient"], "client/node/supernode.py"),
    ("flwr.supernode.node_auth_http_interceptor", ["NodeAuthHttpInterceptor"], "client/node/supernode.py"),
    ("flwr.supercore.run", ["RunNotRunningException"], "client/node/supernode.py"),
    (
        "flwr.proto.fleet_pb2",
        ["ActivateNodeResponse", "DeactivateNodeRequest"],
        "client/node/fleet_watch.py, supernode.py",
    ),
    (
        "flwr.supercore.protobuf.client",
        ["ProtobufCall", "ProtobufClientInterceptor", "ProtobufRequestContext"],
        "client/node/fleet_watch.py, client/node/supernode.py",
    ),
    ("flwr.supernode.start_client_internal", ["time"], "client/node/supernode.py: its fixed pauses"),
    ("flwr.supernode.main", ["create_app"], "client/node/supernode.py"),
    ("flwr.proto.message_pb2", ["PullObjectRequest", "PullObjectResponse"], "client, server/deployment/serverapp.py"),
    ("flwr.superlink.grid.http_grid", ["RuntimeHttpClient"], "server/deployment/serverapp.py"),
    ("flwr.supercore.http_logging", ["get_uvicorn_log_config"], "server/deployment/superlink.py"),
    ("flwr.supercore.sql_mixin", ["SQLITE_PRAGMAS"], "server/deployment/superlink_speed.py"),
    ("flwr.supercore.corestate.sql_corestate", ["SqlCoreState"], "server/deployment/superlink_speed.py"),
    ("flwr.server.superlink.linkstate.sql_linkstate", ["SqlLinkState"], "server/deployment/superlink_speed.py"),
    ("flwr.superlink.routers.fleet.middlewares", ["FleetEventLogMiddleware"], "server/deployment/superlink_speed.py"),
    (
        "flwr.superlink.routers.control.middlewares",
        ["ControlEventLogMiddleware", "ControlLicenseMiddleware", "ControlSensitiveResponseMiddleware"],
        "server/deployment/superlink_speed.py",
    ),
    (
        "flwr.superlink.cli.flower_superlink",
        ["SuperLinkLifespan", "_parse_superlink_lifespan_config"],
        "server/deployment/superlink.py",
    ),
    ("flwr.superlink.main", ["create_app"], "server/deployment/superlink.py"),
    (
        "flwr.proto.runtime_pb2",
        ["AcquireTaskRequest", "PushTaskOutputRequest", "SendTaskHeartbeatRequest"],
        "server/deployment/executor.py",
    ),
    ("flwr.common.constant", ["ErrorCode"], "server/sites/exchange.py"),
    ("flwr.supercore.logger", ["mirror_output_to_queue"], "server/deployment/serverapp.py"),
    ("flwr.superlink.runtime", ["run_serverapp"], "server/deployment/serverapp.py"),
    ("httpx", ["HTTPError"], "server/sites/exchange.py: what Flower's own Grid raises when the SuperLink stumbles"),
]


def test_the_version_is_the_one_that_was_looked_at():
    assert version("flwr").startswith("1.42.")


@pytest.mark.parametrize(("module", "names", "where"), INTERNALS, ids=lambda v: v if isinstance(v, str) else "")
def test_internals_are_where_we_import_them_from(module, names, where):
    loaded = importlib.import_module(module)
    missing = [name for name in names if not hasattr(loaded, name)]
    assert not missing, f"{where} needs {missing} of {module}"


def test_the_grid_protocol_has_the_methods_that_local_grid_implements():
    from flwr.serverapp import Grid

    assert Grid.__abstractmethods__ == {
        "set_run",
        "run",
        "create_message",
        "get_node_ids",
        "push_messages",
        "pull_messages",
        "send_and_receive",
    }


def test_message_ids_and_records_behave_as_local_grid_expects():
    from flwr.app import ConfigRecord, Metadata

    metadata = Metadata(1, "", 1, 2, "", "g", 0.0, 1.0, "train")
    metadata.__dict__["_message_id"] = "x"
    assert metadata.message_id == "x"
    assert dict(ConfigRecord.inflate(ConfigRecord({"a": [1, 2]}).deflate())) == {"a": [1, 2]}


def test_the_supernode_goes_wrong_where_the_fleet_watch_expects_it():
    import inspect

    from flwr.supercore.retry import http_retry
    from flwr.supernode import fleet_http_connection, start_client_internal

    # client/node/fleet_watch.py stands in front of each request, through the name that this module calls.
    connection = inspect.getsource(fleet_http_connection)
    assert "with FleetHttpClient.from_server_address(" in connection
    assert "if exc.response.status_code in (502, 503, 504)" in connection
    retry = inspect.getsource(http_retry)
    assert '("certificate", "ssl", "tls")' in retry
    assert "INTERNAL_SERVER_ERROR" not in retry
    # client/node/watchdog.py: it waits without end for an answer of the executor.
    assert "while not (reply_messages :=" in inspect.getsource(start_client_internal)


def test_what_we_make_faster_is_done_where_we_reach_it():
    import inspect

    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
    from flwr.supercore.corestate.sql_corestate import SqlCoreState
    from flwr.superlink.grid import http_grid
    from flwr.supernode import start_client_internal

    # client/node/supernode.py: the main loop uses `time` for its pauses alone, and takes create_app when it starts.
    loop = inspect.getsource(start_client_internal)
    assert set(re.findall(r"\btime\.\w+\(.*?\)", loop)) == {"time.sleep(3)", "time.sleep(0.5)"}
    command = importlib.import_module("flwr.supernode.cli.flower_supernode")
    assert "from flwr.supernode.main import" in inspect.getsource(command._start_supernode_http_api)
    # server/deployment/serverapp.py: the Grid makes its client by the name that its module knows.
    assert "RuntimeHttpClient.from_server_address(" in inspect.getsource(http_grid.HttpGrid._connect)
    # server/deployment/superlink_speed.py.
    assert "_cleanup_expired_task_tokens" in vars(SqlCoreState)
    assert "bytes_sent" in inspect.signature(SqlLinkState.store_traffic).parameters

"""What is changed in Flower's SuperNode. Each change is made in a process of its own."""

import inspect
import re
import subprocess
import sys
from importlib import import_module

import pytest
from flwr.supernode import fleet_http_connection, start_client_internal

WATCHED = """
import httpx
from flwr.proto.fleet_pb2 import PullMessagesRequest
from privacy.flower.internals import fleet, supernode
from flwr.supernode import fleet_http_connection

seen = []

class Watch:
    def intercept(self, context, call_next):
        seen.append(fleet.call_of(context))
        raise httpx.ConnectError("seen")

supernode.watch_requests(Watch())
with fleet_http_connection.FleetHttpClient.from_server_address("127.0.0.1:9", True, None, []) as client:
    try:
        client.PullMessages(PullMessagesRequest())
    except httpx.ConnectError:
        pass
assert seen == [fleet.PULL], seen
"""
PAUSES = """
import time
from flwr.supernode import start_client_internal
from privacy.flower.internals.supernode import shorten_pauses

shorten_pauses(lambda: 0.0)
before = time.monotonic()
start_client_internal.time.sleep(60)
assert time.monotonic() - before < 30
assert not hasattr(start_client_internal.time, "monotonic")
"""
BODIES = """
from privacy.flower.internals.supernode import read_bodies_whole
from privacy.flower.whole_body import WholeBody
from flwr.supernode import main

asked = []
main.create_app = lambda *arguments, **options: asked.append((arguments, options)) or "application"
read_bodies_whole()
front = main.create_app(1, key=2)
assert isinstance(front, WholeBody) and asked == [((1,), {"key": 2})]
"""


@pytest.mark.parametrize("program", [WATCHED, PAUSES, BODIES], ids=["watched", "pauses", "bodies"])
def test_a_change_takes_hold(program: str) -> None:
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_the_supernode_does_its_work_where_the_changes_reach_it() -> None:
    assert "with FleetHttpClient.from_server_address(" in inspect.getsource(fleet_http_connection)
    # The main loop uses `time` for its pauses alone, and takes create_app when it starts.
    loop = inspect.getsource(start_client_internal)
    assert set(re.findall(r"\btime\.\w+\(.*?\)", loop)) == {"time.sleep(3)", "time.sleep(0.5)"}
    command = import_module("flwr.supernode.cli.flower_supernode")
    assert "from flwr.supernode.main import" in inspect.getsource(command._start_supernode_http_api)
    # client/node/watchdog.py: it waits without end for an answer of the executor.
    assert "while not (reply_messages :=" in loop


def test_flowers_parser_takes_our_flags() -> None:
    """A wrong flag ends with code 2; with good ones it goes on to the key, which is missing here."""
    program = "import sys; from privacy.flower.internals.supernode import run_supernode; run_supernode(sys.argv[1:])"
    flags = ["--superlink", "127.0.0.1:9", "--root-certificates", "/nowhere", "--host", "127.0.0.1", "--port", "9"]
    flags += ["--auth-supernode-private-key", "/nowhere", "--isolation", "process"]
    flags += ["--superexec-auth-secret-file", "/nowhere"]
    ran = subprocess.run([sys.executable, "-c", program, *flags], capture_output=True, text=True, timeout=120)
    assert ran.returncode != 0
    assert "unrecognized" not in ran.stderr
    assert "`--root-certificates` does not point to a file" in ran.stderr

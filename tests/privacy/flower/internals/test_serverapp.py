"""Flower's runner of a ServerApp."""

import inspect
import subprocess
import sys

from flwr.superlink.grid import http_grid
from flwr.superlink.runtime import run_serverapp

from privacy.flower.internals import serverapp

PROGRAM = """
from flwr.superlink.grid import http_grid
from privacy.flower.internals.runtime import PromptRuntime
from privacy.flower.internals.serverapp import pull_promptly

pull_promptly()
assert http_grid.RuntimeHttpClient is PromptRuntime
"""


def test_the_grid_makes_its_client_by_the_name_that_its_module_knows() -> None:
    assert "RuntimeHttpClient.from_server_address(" in inspect.getsource(http_grid.HttpGrid._connect)
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_the_runner_takes_a_token_and_installs_nothing() -> None:
    given = {"runtime_api_address", "log_queue", "token", "insecure", "certificates", "runtime_dependency_install"}
    parameters = inspect.signature(run_serverapp).parameters
    required = {name for name, p in parameters.items() if p.default is p.empty}
    assert required <= given <= set(parameters)
    assert serverapp.run_serverapp is run_serverapp

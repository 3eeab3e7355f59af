"""The coordinator's side of Flower's Control API, through Flower's own `flwr` program and its JSON output.

Flower keeps its Python control client internal. So each call is a subprocess (about 2 s of CPU, mostly imports): call
sparingly. Only that program's configuration holds the control secret (see server/deployment/home.py). `flwr` prints the
address that it connects to, so the secret is removed from its output before any of it is shown.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy.flower.processes import flower_program, is_running
from server.deployment.home import CONNECTION, ServerHome
from shared_model.core.errors import FedKT3DError, InputError

CALL_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """State of one run, as the SuperLink reports it."""

    state: str  # pending, starting, running, finished:completed, finished:failed, finished:stopped
    details: str

    @property
    def finished(self) -> bool:
        """Whether the run is over, successfully or not."""
        return self.state.startswith("finished")

    @property
    def completed(self) -> bool:
        """Whether the ServerApp ended successfully."""
        return self.state == "finished:completed"


class Control:
    """Calls to the SuperLink of one coordinator's folder. InputError when `server start` does not run there."""

    def __init__(self, home: ServerHome) -> None:
        if not is_running(home.lock):
            raise InputError(f"{home.folder}: the coordinator is not running; run `server start --home {home.folder}`")
        self._home = home
        self._environment = home.environment("control")
        self._secret = home.secret("control").read_text(encoding="ascii")

    def register(self, public_key: Path) -> str:
        """Register a site's node key and return the node's id; InputError when the SuperLink has it already."""
        answer = self._call("supernode", "register", str(public_key), CONNECTION)
        return str(answer["node-id"])

    def unregister(self, node_id: str) -> None:
        """Take a node's key away: the SuperLink refuses it from now on."""
        self._call("supernode", "unregister", node_id, CONNECTION)

    def nodes(self) -> list[dict[str, Any]]:
        """Return the registered nodes as Flower lists them (node-id, status online | offline | registered ...)."""
        nodes = self._call("supernode", "list", CONNECTION)["nodes"]
        return [node for node in nodes if node["status"] != "unregistered"]

    def submit(self, app: Path, run_config: Path) -> str:
        """Start a run of the bundle in folder `app` with the configuration in `run_config` (TOML). Return the id."""
        answer = self._call("run", str(app), CONNECTION, "--run-config", str(run_config))
        return str(answer["run-id"])

    def run_status(self, run_id: str) -> RunStatus:
        """Return the run's state."""
        run = self._call("list", CONNECTION, "--run-id", run_id)["runs"][0]
        return RunStatus(state=str(run["status"]), details=str(run["status-details"] or ""))

    def runs(self) -> list[dict[str, Any]]:
        """Return all runs as Flower lists them."""
        return list(self._call("list", CONNECTION)["runs"])

    def stop(self, run_id: str) -> None:
        """Stop a run."""
        self._call("stop", run_id, CONNECTION)

    def _call(self, *arguments: str) -> dict[str, Any]:
        result = self._flwr([flower_program("flwr"), *arguments, "--format", "json"])
        if result is None:
            raise FedKT3DError(f"flwr {arguments[0]}: the SuperLink was silent for {CALL_TIMEOUT_S:.0f} s")
        answer = _json_object(result.stdout)
        if answer.get("success") is True:
            return answer
        reason = str(answer.get("error-message") or result.stderr or result.stdout)
        raise FedKT3DError(f"flwr {arguments[0]}: {self._redact(_last_line(reason))}")

    def _flwr(self, command: list[str]) -> subprocess.CompletedProcess[str] | None:
        """Run `command` to its end; None when it took too long."""
        try:
            return subprocess.run(
                command,
                env=self._environment,
                # `flwr` would take a folder that is named like the connection for an app.
                cwd=self._environment["FLWR_HOME"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=CALL_TIMEOUT_S,
                check=False,
                start_new_session=True,  # Ctrl-C is for us: a call goes through or not, never half
            )
        except subprocess.TimeoutExpired:
            return None

    def _redact(self, text: str) -> str:
        return text.replace(self._secret, "***")


def _json_object(text: str) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no answer"

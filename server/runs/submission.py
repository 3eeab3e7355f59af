"""Submit a run to the SuperLink exactly once, whatever is killed on the way.

`OUT/run.json` holds the configuration before the run is submitted, and also the run's id afterwards. If the id is
missing, or its run is over while another run holds the folder, this command was killed between the two. Then the run
that the SuperLink works on and that no file names is the right one. It is followed, not submitted again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from privacy.flower.processes import is_running, read_state
from server.config.run import RunConfig
from server.deployment.control import Control
from server.deployment.home import ServerHome
from server.deployment.start import is_ready
from server.record.journal import in_use
from server.runs import index as runs
from server.runs.bundle import write_bundle, write_run_config
from shared_model.core.errors import FedKT3DError, InputError

POLL_S = 0.5
LOCK_S = 30.0  # a stopped ServerApp has this long to release its folder
RETRY_S = 2.0
SUBMIT_S = 6.0  # by then, a submission whose command was killed has reached the SuperLink
COORDINATOR_BACK_S = 300.0  # how long to wait for a coordinator that is restarted
_TRIES = 4
_Value = TypeVar("_Value")


class Submission:
    """Submits runs of one configuration to one folder."""

    def __init__(self, home: ServerHome, control: Control, config: RunConfig, out: Path) -> None:
        self._home, self._control, self._config, self._out = home, control, config, out

    def first(self) -> str:
        """Return the id of the run to follow: a run of this configuration that is under way, or a new run.

        InputError when a run of another configuration holds the folder, or something that is not a run.
        """
        wait_until_ready(self._home)
        known = read_state(self._out / runs.RUN)
        if not known and not in_use(self._out):
            return self.again()
        same = known.get("config") == self._config.to_json()
        run_id = str(known.get("run_id", ""))
        if known and not run_id:
            time.sleep(SUBMIT_S)
        # A run's server app takes seconds to start. Until then the run is under way, but nobody holds the folder.
        under_way = self._under_way()
        found: str | None = run_id
        if run_id not in under_way:
            found = self._find_unnamed(under_way) if not run_id or in_use(self._out) else None
        if found is None:
            return self.again()
        if not same:
            raise InputError(
                f"{self._out}: another run is using this folder; wait for it or choose another (name= or --out)"
            )
        runs.remember(self._home, found, self._config, self._out)
        return found

    def again(self) -> str:
        """Submit the run once its folder is free, and return its id."""
        self._wait_for_folder()
        text = self._config.to_json()
        digest = hashlib.sha256(text.encode()).hexdigest()
        folder = self._home.folder / "app"
        bundle = write_bundle(folder)
        path = folder / f"{self._config.name}.toml"
        file = write_run_config(path, config=text, sha256=digest, out=self._out.resolve(), home=self._home.folder)
        runs.intend(self._config, self._out)
        run_id = self._submit(bundle, file)
        runs.remember(self._home, run_id, self._config, self._out)
        return run_id

    def _submit(self, bundle: Path, file: Path) -> str:
        def submit() -> str:
            # At a second try: the SuperLink may have died before it took the run, or after.
            return (self._find_unnamed(self._under_way()) if tried else None) or self._control.submit(bundle, file)

        tried: list[bool] = []
        return self._ask(submit, tried)

    def _ask(self, call: Callable[[], _Value], tried: list[bool] | None = None) -> _Value:
        """Return what a call to the SuperLink returns. Call again if the SuperLink died; note each failure."""
        while True:
            wait_until_ready(self._home)
            try:
                return call()
            except FedKT3DError:
                tried = [] if tried is None else tried
                tried.append(True)
                if len(tried) == _TRIES:
                    raise
            time.sleep(RETRY_S)

    def _under_way(self) -> list[str]:
        """Return the ids of the runs that the SuperLink works on."""
        listed = self._ask(self._control.runs)
        return [str(run["run-id"]) for run in listed if not str(run["status"]).startswith("finished")]

    def _find_unnamed(self, under_way: list[str]) -> str | None:
        """Return the id of a run that the SuperLink works on and that none of our files names."""
        named = {entry.run_id for entry in runs.entries(self._home)}
        found = [run_id for run_id in under_way if run_id not in named]
        return found[0] if found else None

    def _wait_for_folder(self) -> None:
        end = time.monotonic() + LOCK_S
        while in_use(self._out):
            if time.monotonic() > end:
                raise InputError(
                    f"{self._out}: another run is using this folder; wait for it or choose another (name= or --out)"
                )
            time.sleep(POLL_S)


def wait_until_ready(home: ServerHome) -> None:
    """Wait for a coordinator that is starting. InputError when none runs or it takes too long."""
    end = time.monotonic() + COORDINATOR_BACK_S
    while not is_ready(home):
        if time.monotonic() > end or not is_running(home.lock):
            raise not_running_error(home)
        time.sleep(POLL_S)


def not_running_error(home: ServerHome) -> InputError:
    """Return the error for a coordinator that does not run."""
    return InputError(
        f"{home.folder}: the coordinator is not running; start it with `server start --home {home.folder}`,"
        " then run the same command to go on"
    )

"""`server track`: the curves of a run for TensorBoard or MLflow, live or afterwards.

A process of its own that reads the run's events (`events.jsonl`), so that a tracking server that hangs or is not there
never touches a run. What is written are means over sites, counts and seconds: what `events.jsonl` holds, and no site's
own values.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from server.record.journal import in_use
from server.runs.index import EVENTS, Event, Tail
from shared_model.core.errors import FedKT3DError, InputError

POLL_S = 1.0


class Curves(Protocol):
    """Takes the points of a run's curves."""

    def add(self, number: int, at: float, values: Mapping[str, float]) -> None:
        """Add the values of round ``number``, which were known at ``at`` (seconds since 1970)."""
        ...

    def close(self, done: bool) -> None:
        """Write what is not written yet; ``done``: the run finished."""
        ...


class TensorBoardCurves:
    """Event files in ``folder``. InputError without the extra."""

    def __init__(self, folder: Path) -> None:
        if importlib.util.find_spec("tensorboardX") is None:
            raise InputError("--tensorboard: needs tensorboardX; install fedkt3d[tensorboard]")
        from tensorboardX import SummaryWriter

        self._writer: Any = SummaryWriter(logdir=str(folder))

    def add(self, number: int, at: float, values: Mapping[str, float]) -> None:
        """See Curves."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, number, walltime=at)
        self._writer.flush()

    def close(self, done: bool) -> None:
        """See Curves."""
        self._writer.close()


class MlflowCurves:
    """A run called ``name`` of the experiment fedkt3d at an MLflow ``uri``: a server's, a file store's, a database's.

    InputError without the extra, or if the store cannot be used.
    """

    def __init__(self, uri: str, name: str) -> None:
        if importlib.util.find_spec("mlflow") is None:
            raise InputError("--mlflow: needs MLflow; install fedkt3d[mlflow]")
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        try:
            self._client = MlflowClient(tracking_uri=uri)
            known = self._client.get_experiment_by_name("fedkt3d")
            experiment = self._client.create_experiment("fedkt3d") if known is None else known.experiment_id
            self._run = self._client.create_run(experiment, run_name=name).info.run_id
        except Exception as error:  # of its driver, network or rights; its text may hold a password
            raise InputError(f"--mlflow: this store cannot be used ({type(error).__name__})") from error

    def add(self, number: int, at: float, values: Mapping[str, float]) -> None:
        """See Curves."""
        points = [self._metric(name, value, int(at * 1000), number) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=points)

    def close(self, done: bool) -> None:
        """See Curves."""
        self._client.set_terminated(self._run, "FINISHED" if done else "KILLED")


def track(
    out: Path, curves: Sequence[Curves], *, live: bool = True, stopped: Callable[[], bool] = lambda: False
) -> int:
    """Write the curves of the run in ``out`` from its first round; with ``live`` until it ends or ``stopped``.

    Returns the last round written. InputError if ``out`` holds no run.
    """
    if not (out / EVENTS).is_file():
        raise InputError(f"{out}: no {EVENTS}; expected a run's output folder")
    tail, rounds, dropped, over = Tail(out / EVENTS, from_start=True), 0, 0, False
    try:
        while True:
            under_way = in_use(out)  # asked before the events: what a run wrote last is read once more
            for event in tail.new():
                dropped = 0 if event.get("kind") == "round_started" else dropped + (event.get("kind") == "site_dropped")
                over = event.get("kind") == "finished"
                for number, values in points(event, dropped):
                    rounds = max(rounds, number)
                    for one in curves:
                        one.add(number, float(event.get("time", 0.0)), values)
            if over or not live or not under_way or stopped():
                return rounds
            time.sleep(POLL_S)
    except Exception as error:  # of a store, whose text may hold a password, or an event that is none
        raise FedKT3DError(f"{out / EVENTS}: cannot be tracked ({type(error).__name__})") from error
    finally:
        for one in curves:
            one.close(over)


def points(event: Event, dropped: int) -> Iterator[tuple[int, dict[str, float]]]:
    """What one event adds: (round, name -> value)."""
    kind, number = event.get("kind"), int(event.get("round", 0))
    metrics = {str(name): float(value) for name, value in event.get("metrics", {}).items()}
    if kind == "evaluated":
        yield number, {f"evaluate/{name}": value for name, value in metrics.items()}
    elif kind in ("round_done", "rolled_back"):
        figures = {
            "round/sites": float(event.get("sites", 0)),
            "round/dropped": float(dropped),
            "round/megabytes": float(event.get("wire_bytes", 0)) / 1e6,
            "round/seconds": float(event.get("wall_s", 0.0)),
        }
        taken_back = {"round/rolled_back": 1.0}
        yield number, taken_back if kind == "rolled_back" else {f"train/{n}": v for n, v in metrics.items()} | figures

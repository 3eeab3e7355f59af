"""Where curves are shown: TensorBoard's event files, or an MLflow store. Both are extras."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from shared_model.core.errors import InputError


class Curves(Protocol):
    """Takes the points of curves."""

    def add(self, number: int, at: float, values: Mapping[str, float]) -> None:
        """Add the values of round or epoch ``number``, which were known at ``at`` (seconds since 1970)."""
        ...

    def close(self, done: bool) -> None:
        """Write what is not written yet; ``done``: what made them has finished."""
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


def curves_of(tensorboard: Path | None, mlflow: str | None, name: str) -> Curves:
    """The store that a command was given: a folder for TensorBoard, or MLflow's address. InputError unless one is."""
    if (tensorboard is None) == (mlflow is None):
        raise InputError("track: expected --tensorboard FOLDER or --mlflow URI")
    return TensorBoardCurves(tensorboard) if tensorboard is not None else MlflowCurves(str(mlflow), name)

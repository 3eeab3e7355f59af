"""The curve of a training as TensorBoard event files, where the extra ``tensorboard`` is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

FOLDER = "tensorboard"
NOT_INSTALLED = "no TensorBoard event files: the extra is not installed (pip install 'fedkt3d[tensorboard]')"


def events_possible() -> bool:
    """Whether the writer of event files is installed."""
    return find_spec("tensorboardX") is not None


class CurveEvents:
    """Writes rows of a curve below ``folder``, one scalar a column, at the row's number of samples.

    ``so_far``: the rows that the run has already made. They are written where the folder has none, and what a killed
    process wrote beyond them is hidden.
    """

    def __init__(self, folder: Path, so_far: Sequence[Mapping[str, float]]) -> None:
        from tensorboardX import SummaryWriter

        begun = folder.is_dir() and any(folder.iterdir())
        last = int(so_far[-1]["samples"]) if so_far else 0
        self._writer = SummaryWriter(logdir=str(folder), purge_step=last + 1 if begun else None)
        for row in () if begun else so_far:
            self.add(row)

    def add(self, row: Mapping[str, float]) -> None:
        """Write one row."""
        for key, value in row.items():
            if key != "samples":
                self._writer.add_scalar(key, value, int(row["samples"]))
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

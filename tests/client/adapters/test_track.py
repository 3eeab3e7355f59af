"""An alignment's curves in TensorBoard's files and in an MLflow store, read back by their own readers."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.adapters.track import track_alignment
from client.cli import app
from shared_model.core.errors import InputError
from tests.builders.event_files import events

ROWS = "epoch,reward,loss,score,mae_ref5_gy\n0,,,60.5,4.0\n1,58,0.5,61.5,4.01\n"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "aligned").mkdir()
    (tmp_path / "aligned" / "curves.csv").write_text(ROWS)
    return tmp_path / "aligned"


def test_tensorboard_shows_score_and_error_by_epoch(out: Path, tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["track", "--out", str(out), "--tensorboard", str(tmp_path / "tb"), "--once"])
    assert told.exit_code == 0, told.output
    assert "epochs written: 1" in told.output
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events(tmp_path / "tb"):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, round(value.simple_value, 3)))
    assert found == {
        "align/score": [(0, 60.5), (1, 61.5)], "align/mae_ref5_gy": [(0, 4.0), (1, 4.01)],
        "align/reward": [(1, 58.0)], "align/loss": [(1, 0.5)],
    }  # fmt: skip


def test_mlflow_shows_them(out: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    told = CliRunner().invoke(app, ["track", "--out", str(out), "--mlflow", uri, "--once"])
    if isinstance(told.exception, InputError):
        uri = (tmp_path / "mlruns").as_uri()
        told = CliRunner().invoke(app, ["track", "--out", str(out), "--mlflow", uri, "--once"])
    assert told.exit_code == 0, told.output
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("fedkt3d").experiment_id])
    assert run.info.run_name == "alignment aligned"
    assert [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, "align/score")] == [
        (0, 60.5),
        (1, 61.5),
    ]


def test_an_alignment_is_followed_until_its_record_is_there(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.adapters.track.POLL_S", 0.02)
    seen = threading.Event()

    class Noted:
        def __init__(self) -> None:
            self.epochs: list[int] = []
            self.done: bool | None = None

        def add(self, number: int, _at: float, _values: object) -> None:
            self.epochs.append(number)
            seen.set()

        def close(self, done: bool) -> None:
            self.done = done

    noted, last = Noted(), []
    follower = threading.Thread(target=lambda: last.append(track_alignment(out, noted)))
    follower.start()
    assert seen.wait(10)
    assert follower.is_alive()
    (out / "curves.csv").write_text(ROWS + "2,59,0.4,62,4.02\n")
    (out / "align.json").write_text("{}")
    later = (out / "curves.csv").stat().st_mtime + 1
    os.utime(out / "align.json", (later, later))
    follower.join(10)
    assert last == [2]
    assert noted.epochs == [0, 1, 2]
    assert noted.done is True


def test_what_is_no_alignment_is_said(out: Path, tmp_path: Path) -> None:
    for arguments, reason in (
        (["--out", str(tmp_path), "--tensorboard", "x"], "no curves.csv"),
        (["--tensorboard", "x"], "expected --home or --out"),
        (["--out", str(out)], "expected --tensorboard FOLDER or --mlflow URI"),
    ):
        told = CliRunner().invoke(app, ["track", *arguments])
        assert isinstance(told.exception, InputError)
        assert reason in str(told.exception)

"""A run's curves in TensorBoard's files and in an MLflow store, read back by their own readers."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli import app
from server.runs.track import points, track
from shared_model.core.curve_stores import TensorBoardCurves
from shared_model.core.errors import InputError
from tests.builders.event_files import events

EVENTS = [
    {"time": 100.0, "kind": "started", "rounds": 2},
    {"time": 101.0, "kind": "round_started", "round": 1, "rounds": 2, "sites": 3},
    {"time": 102.0, "kind": "site_dropped", "round": 1, "site": "a", "reason": "timeout"},
    {"time": 103.0, "kind": "round_done", "round": 1, "sites": 2, "metrics": {"loss": 0.5}, "wire_bytes": 2_000_000,
     "wall_s": 7.0},
    {"time": 104.0, "kind": "evaluated", "round": 1, "sites": 2, "metrics": {"dose_score_gy": 3.25}},
    {"time": 105.0, "kind": "round_started", "round": 2, "rounds": 2, "sites": 3},
    {"time": 106.0, "kind": "round_done", "round": 2, "sites": 3, "metrics": {"loss": 0.25}, "wall_s": 6.0},
    {"time": 107.0, "kind": "rolled_back", "round": 2, "detail": "worse"},
]  # fmt: skip
FINISHED = {"time": 108.0, "kind": "finished", "round": 2, "rounds": 2}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events(folder):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    return tmp_path / "run"


def test_tensorboard_shows_the_curves(out: Path, tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["track", "--out", str(out), "--tensorboard", str(tmp_path / "tb"), "--once"])
    assert told.exit_code == 0, told.output
    found = scalars(tmp_path / "tb")
    assert found["train/loss"] == [(1, 0.5), (2, 0.25)]
    assert found["evaluate/dose_score_gy"] == [(1, 3.25)]
    assert found["round/dropped"] == [(1, 1.0), (2, 0.0)]
    assert found["round/megabytes"] == [(1, 2.0), (2, 0.0)]
    assert found["round/rolled_back"] == [(2, 1.0)]


def test_a_live_run_is_followed_to_its_end(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.runs.track.POLL_S", 0.02)
    seen = threading.Event()

    class Noted:
        def add(self, number: int, at: float, values: object) -> None:
            seen.set()

        def close(self, done: bool) -> None:
            self.closed, self.done = True, done

    running = [True]
    monkeypatch.setattr("server.runs.track.in_use", lambda _: running[0])
    noted, rounds = Noted(), []
    follower = threading.Thread(target=lambda: rounds.append(track(out, [noted])))
    follower.start()
    assert seen.wait(10)
    assert follower.is_alive()
    with (out / "events.jsonl").open("a") as file:
        file.write(json.dumps(FINISHED) + "\n")
    follower.join(10)
    assert rounds == [2]
    assert noted.closed
    assert noted.done
    failed = Noted()
    (out / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    running[0] = False
    assert track(out, [failed]) == 2, "a run that failed or was killed is followed no longer"
    assert not failed.done


def test_mlflow_shows_the_curves(out: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}" if has_sql() else (tmp_path / "mlruns").as_uri()
    told = CliRunner().invoke(app, ["track", "first", "--out", str(out), "--mlflow", uri, "--once"])
    assert told.exit_code == 0, told.output
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("fedkt3d")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "first"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value, point.timestamp) for point in history] == [(1, 0.5, 103_000), (2, 0.25, 106_000)]


def has_sql() -> bool:
    try:
        import sqlalchemy  # noqa: F401
    except ImportError:
        return False
    return True


def test_what_is_no_run_or_no_target_is_said(out: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no events\.jsonl"):
        track(tmp_path, [TensorBoardCurves(tmp_path / "tb")], live=False)
    both = ["--out", str(out), "--tensorboard", "x", "--mlflow", "y"]
    for arguments in (["--out", str(out)], ["--tensorboard", "x"], both):
        told = CliRunner().invoke(app, ["track", *arguments])
        assert isinstance(told.exception, InputError)


def test_an_event_of_a_site_adds_nothing() -> None:
    assert list(points({"kind": "site_done", "round": 1, "site": "a"}, 0)) == []

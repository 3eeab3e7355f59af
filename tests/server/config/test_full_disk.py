"""A disk that takes no more at the coordinator: the kernel refuses the write, by the process's file size limit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from server.record.events import Event, EventLog
from server.runs.failure import ReportedError, read_failure
from shared_model.core.errors import FedKT3DError, InputError
from shared_model.core.files import StorageError, write_bytes
from simulations.engine.quadratic import run_quadratic, write_sites
from tests.builders.run_config import plain_run, rounds_config, train_config

CONFIG = plain_run(
    rounds=rounds_config(count=4, min_sites=2, deadline_s=20.0, wait_for_sites_s=5.0),
    train=train_config(local_steps=3, lr=0.3),
)

# Lets a run write until its second round is done, and then nothing of any size.
FULL = """\
import json, resource, signal, sys
from pathlib import Path
from server.config.run import RunConfig
from simulations.engine.quadratic import run_quadratic

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
config, nodes, out = RunConfig.from_json(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])

def fill(event):
    if event.kind == "round_done" and event.round == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))

try:
    run_quadratic(out, config, nodes, on_event=fill)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_full_disk_is_one_line_and_the_run_goes_on_once_there_is_room(tmp_path: Path) -> None:
    nodes, out = write_sites(tmp_path, {"a": 3, "b": 5}), tmp_path / "out"
    arguments = [CONFIG.to_json(), json.dumps(nodes), str(out)]
    told = subprocess.run([sys.executable, "-c", FULL, *arguments], capture_output=True, text=True, check=True).stdout
    assert told.startswith("StorageError")
    assert "File too large" in told
    assert told.count("\n") == 1
    checkpoints = sorted(path.name for path in (out / "checkpoint").iterdir())
    assert len(checkpoints) == 2
    assert all(name.endswith(".ckpt") for name in checkpoints)
    result = run_quadratic(out, CONFIG, nodes)
    assert result.resumed_from >= 1
    assert [record.round for record in result.history] == [1, 2, 3, 4]
    calm = run_quadratic(tmp_path / "calm", CONFIG, nodes)
    assert result.vector.tobytes() == calm.vector.tobytes()


def test_an_unwritable_place_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.mkdir()
    (path / "b").write_text("x")
    with pytest.raises(StorageError, match="cannot be written"):
        write_bytes(path, b"new")  # a folder with content cannot be replaced by a file
    assert (path / "b").read_text() == "x"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_line_that_was_cut_short_does_not_spoil_the_next(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"kind": "started"}\n{"kind": "rou')
    EventLog(tmp_path)(Event(kind="resumed"))
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["kind"] == "started"
    assert json.loads(lines[2])["kind"] == "resumed"


@pytest.mark.parametrize("error", [InputError("out: bad"), FedKT3DError("round 1: too few")])
def test_an_error_of_ours_survives_the_superlink(error: FedKT3DError) -> None:
    read = read_failure(f"ServerApp failed with exception: {ReportedError(error)}")
    assert (type(read), str(read)) == (type(error), str(error))
    assert read_failure("No heartbeat received from the task") is None
    assert read_failure("ServerApp failed with exception: division by zero") is None

"""Checkpoints: round trip, damage at any byte, the lock, leftovers of a killed writer."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.record.history import Drop, Evaluation, RoundRecord
from server.record.journal import Journal, RunState, _decode, _encode
from shared_model.core.errors import InputError
from shared_model.core.files import write_bytes

RECORD = RoundRecord(
    round=1,
    lr=0.1,
    attempt=2,
    sites={"a": 3},
    norms={"a": 0.5},
    metrics={"loss": 1.0},
    per_site={"a": {"loss": 1.0}},
    drops=(Drop(site="b", reason="refused", detail="policy: no"),),
    wire_bytes=10,
    wall_s=0.1,
    evaluation=Evaluation(metrics={"loss": 1.0}, per_site={"a": {"loss": 1.0}}, patients={"a": 3}),
)
STATE = RunState(
    run_id="0" * 32,
    identity="i",
    round=1,
    vector=np.arange(7, dtype=np.float32),
    optimizer={"m": np.linspace(0, 1, 7), "v": np.full(7, 1e-300)},
    history=(RECORD, replace(RECORD, round=2, evaluation=None)),
)


def write(out: Path, *rounds: int) -> None:
    with Journal(out) as journal:
        journal.load("i")
        for number in rounds:
            journal.save(replace(STATE, round=number))


def newest(out: Path) -> Path:
    return max((out / "checkpoint").glob("*.ckpt"))


def test_round_trip_is_exact(tmp_path):
    write(tmp_path, 1)
    with Journal(tmp_path) as journal:
        state, notices = journal.load("i")
    assert notices == []
    assert state.vector.tobytes() == STATE.vector.tobytes()
    assert {k: v.tobytes() for k, v in state.optimizer.items()} == {k: v.tobytes() for k, v in STATE.optimizer.items()}
    assert (state.run_id, state.round, state.history) == (STATE.run_id, 1, STATE.history)


def test_only_the_last_two_are_kept_and_leftovers_go(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / ".00000001.ckpt-0.partial").write_bytes(b"half")
    write(tmp_path, 1, 2, 3)
    assert sorted(p.name for p in (tmp_path / "checkpoint").iterdir()) == ["00000002.ckpt", "00000003.ckpt"]


@pytest.mark.parametrize("keep", [0, 10, 40, -1])
def test_a_truncated_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path, keep):
    write(tmp_path, 1, 2)
    path = newest(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with Journal(tmp_path) as journal:
        state, notices = journal.load("i")
        assert state.round == 1
        assert "00000002.ckpt is damaged" in notices[0]
        journal.save(replace(STATE, round=2))
        journal.save(replace(STATE, round=3))
        assert journal.load("i")[0].round == 3
    assert (tmp_path / "checkpoint" / "00000002.damaged").exists()


@settings(max_examples=60)
@given(st.data())
def test_a_flipped_bit_anywhere_is_noticed(data):
    whole = b"".join(_encode(STATE))
    at = data.draw(st.integers(0, len(whole) - 1))
    broken = bytearray(whole)
    broken[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ValueError, match="damaged"):
        _decode(bytes(broken))


def test_all_damaged_is_an_error_and_not_a_fresh_start(tmp_path):
    write(tmp_path, 1, 2)
    for path in (tmp_path / "checkpoint").glob("*.ckpt"):
        path.write_bytes(b"")
    with Journal(tmp_path) as journal, pytest.raises(InputError, match="every checkpoint is damaged"):
        journal.load("i")


def test_another_identity_is_refused(tmp_path):
    write(tmp_path, 1)
    with Journal(tmp_path) as journal, pytest.raises(InputError, match="another configuration"):
        journal.load("j")


def test_two_runs_cannot_share_a_folder_but_a_killed_one_frees_it(tmp_path):
    with Journal(tmp_path), pytest.raises(InputError, match="another run is using"), Journal(tmp_path):
        pass
    hold = "import sys, time; from pathlib import Path; from server.record.journal import Journal\n"
    hold += "with Journal(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(InputError, match="another run is using"), Journal(tmp_path):
        pass
    process.kill()
    process.communicate()
    with Journal(tmp_path):
        pass


def test_a_file_in_the_place_of_the_folder_is_a_clear_error(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(InputError, match="cannot be used as an output folder"), Journal(tmp_path / "out"):
        pass


def test_a_file_is_replaced_as_a_whole_and_never_written_in_place(tmp_path):
    path, old = tmp_path / "file", tmp_path / "old"
    path.write_bytes(b"old")
    os.link(path, old)
    write_bytes(path, b"n", b"ew")
    assert (path.read_bytes(), old.read_bytes()) == (b"new", b"old")
    assert sorted(tmp_path.iterdir()) == [path, old]


def test_a_crash_between_write_and_rename_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    write(tmp_path, 1)

    class PowerCut(BaseException):
        """Nothing after it is done, as after a real one."""

    def crash(*_: object) -> None:
        raise PowerCut

    with Journal(tmp_path) as journal:
        journal.load("i")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", crash)
            with pytest.raises(PowerCut):
                journal.save(replace(STATE, round=2))
        state, notices = journal.load("i")
    assert (state.round, notices) == (1, [])

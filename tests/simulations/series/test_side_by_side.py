"""Trials in processes of their own: what fails is told, and the others finish."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

from rich.progress import Progress

from shared_model.core.errors import InputError
from simulations.series.side_by_side import TrialJob, side_by_side


def trial(path: Path, bars: Progress) -> None:
    bars.console.print(f"at work on {path.name}")
    if path.name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if path.name == "refused":
        raise InputError("no such patients")
    if path.name == "fault":
        raise ValueError("a fault")
    path.write_text(str(os.getpid()))


def test_a_trial_that_fails_or_is_killed_is_told_and_the_others_finish(tmp_path: Path) -> None:
    names = ["killed", "good", "refused", "fault", "also_good"]
    jobs = [TrialJob(work=partial(trial, tmp_path / name), log=tmp_path / "logs" / name) for name in names]
    found = {names[place]: problem for place, problem in side_by_side(jobs, 2)}
    assert "exit code -9" in found.pop("killed")
    log = tmp_path / "logs" / "fault"
    assert found == {
        "good": "",
        "also_good": "",
        "refused": "no such patients",
        "fault": f"ValueError: a fault ({log})",
    }
    processes = {(tmp_path / name).read_text() for name in ("good", "also_good")}
    assert len(processes | {str(os.getpid())}) == 3
    assert "at work on fault" in log.read_text()
    assert "Traceback" in log.read_text()

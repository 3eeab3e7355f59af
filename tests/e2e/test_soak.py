"""The short form of `make soak`: one command, a few rounds, three faults, and nobody has to act."""

import csv
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

FAULTS = ("kill site executor", "cut", "kill coordinator")


def test_a_short_soak_ends_by_itself_with_nobody_acting(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "simulations.soak.run", "--rounds", "10", "--minutes", "20"]
    command += ["--out", str(tmp_path), "--faults", ",".join(FAULTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 of 10 rounds" in done.stdout
    with (tmp_path / "faults.csv").open() as file:
        rows = list(csv.DictReader(file))
    # How many rounds pass during a fault depends on the machine.
    assert len(rows) >= 2
    assert {row["fault"] for row in rows} <= set(FAULTS)
    assert {row["acted"] for row in rows} == {"nobody"}
    left = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            left += [path] * (str(tmp_path).encode() in path.read_bytes())
    assert left == [], "a process was left behind"

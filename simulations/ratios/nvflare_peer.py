"""A round of NVFlare's simulator beside one of ours, in one run.

``python -m simulations.ratios.nvflare_peer [--python FILE] [--sites 100] [--rounds 3] [--megabytes 4] [--json]``. FILE:
the interpreter of an environment with NVFlare, apart from ours: ``python -m venv DIR && DIR/bin/pip install
nvflare==2.9.0``. Without it that of the environment whose program ``nvflare`` is on the PATH, where ``make bench`` too
looks for it: ``PATH="$PATH:$PWD/DIR/bin" make bench``. Both have a trivial client that answers with a vector of the
same size, and the mean. The time of a round leaves the start-up out, which is given apart. ``--peer-workers``:
NVFlare's client processes; with fewer than sites it starts them anew for each site.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from datetime import datetime
from pathlib import Path

from simulations.ratios.peer_round import options, print_beside

JOB = Path(__file__).parent / "nvflare" / "job.py"
# What its server logs when a round begins.
BEGINS = "Sampled clients"


def round_starts(log: Path) -> list[datetime]:
    """When each round began, from the server's log of JSON lines."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [
        datetime.strptime(row["asctime"], "%Y-%m-%d %H:%M:%S,%f")
        for row in rows
        if str(row["message"]).startswith(BEGINS)
    ]


def peer(python: Path, sites: int, rounds: int, size: int, workers: int) -> dict[str, float]:
    """Seconds of NVFlare: of a round between the first and the last, and of all. SystemExit if it did not finish."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        asked = [str(python), str(JOB), *map(str, (sites, rounds, size, workers)), folder]
        done = subprocess.run(asked, cwd=folder, capture_output=True, text=True, check=False)
        whole = time.perf_counter() - began
        found = list(Path(folder).rglob("server/log.json"))
        starts = round_starts(found[0]) if found else []
        if done.returncode or len(starts) != rounds:
            raise SystemExit(f"NVFlare began {len(starts)} of {rounds} rounds:\n{(done.stdout + done.stderr)[-2000:]}")
        return {"round_s": (starts[-1] - starts[0]).total_seconds() / (rounds - 1), "whole_s": whole}


def beside_nvflare() -> Path | None:
    """The interpreter beside NVFlare's own program, where that is on the PATH."""
    program = shutil.which("nvflare")
    return Path(program).with_name("python") if program else None


def main() -> None:
    """Print both."""
    parser = options(__doc__)
    parser.add_argument("--python", type=Path, default=beside_nvflare(), help="interpreter of NVFlare's environment")
    parser.add_argument("--peer-workers", type=int, default=0, help="0: as many as ours")
    asked = parser.parse_args()
    if asked.python is None:
        parser.error("NVFlare's program `nvflare` is not on the PATH; expected that, or --python FILE")
    python, workers = asked.python.absolute(), asked.peer_workers or asked.workers
    title = "A round beside NVFlare's simulator"
    print_beside("nvflare", title, asked, lambda size: peer(python, asked.sites, asked.rounds, size, workers))


if __name__ == "__main__":
    main()

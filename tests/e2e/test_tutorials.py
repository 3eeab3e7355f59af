"""The tutorials' blocks marked `sh` are executed as they stand, and what they leave is there."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.deployment import SCRIPTS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
LEFT = {
    "hospital": ("ward", "dose/dose.dcm", "dose/report.html"),
    "coordinator": ("coordinator/ca/ca.crt", "coordinator/ca/ca.key"),
    "researcher": ("first/metrics.md", "first/adapter.json", "private/adapter.json", "scores"),
}


@pytest.mark.parametrize("name", LEFT)
def test_a_tutorial_is_executed(tmp_path: Path, name: str) -> None:
    path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    blocks = _BLOCK.findall((TUTORIALS / f"{name}.md").read_text(encoding="utf-8"))
    assert blocks
    told = ""
    for block in blocks:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        told += done.stdout
    assert [left for left in LEFT[name] if not (tmp_path / left).exists()] == []
    assert {"hospital": "4 of 4 patients", "coordinator": "fedkt3d://", "researcher": "epsilon"}[name] in told

"""The researcher's notebook runs from the challenge's own files to its table, as it is in the repository."""

import json
import os
from pathlib import Path

import matplotlib as mpl
import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "howto" / "openkbp.ipynb"
CSV = os.environ.get("FEDKT3D_OPENKBP_CSV")


def cells(kind: str) -> list[str]:
    return ["".join(c["source"]) for c in json.loads(NOTEBOOK.read_text())["cells"] if c["cell_type"] == kind]


def test_it_is_kept_without_outputs() -> None:
    found = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in found)


@pytest.mark.skipif(CSV is None, reason="FEDKT3D_OPENKBP_CSV is not set")
@pytest.mark.timeout(600)
def test_every_cell_runs_and_the_last_prints_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENKBP_CLONE", str(CSV))
    monkeypatch.setenv("OPENKBP_OUT", str(tmp_path))
    monkeypatch.setenv("OPENKBP_QUICK", "1")
    mpl.use("Agg")
    scope: dict[str, object] = {"__name__": "__main__"}
    for cell in cells("code"):
        exec(compile(cell, str(NOTEBOOK), "exec"), scope)
    table = capsys.readouterr().out
    assert all(f"| {study} | 1 |" in table for study in ("federated", "local", "centralised"))
    assert (tmp_path / "patient.png").stat().st_size > 0
    assert (tmp_path / "prediction.png").stat().st_size > 0

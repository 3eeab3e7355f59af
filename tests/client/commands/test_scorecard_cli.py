"""`client scorecard`, `align`, `report`: what they write and how they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.adapters.adopt import own_card
from client.adapters.align import PRIVATE_FILE, data_site
from client.adapters.in_use import private_in_use
from client.cli import app
from client.commands.scorecard import align_settings
from client.setup import enrol
from shared_model.adapter.manifest import save_adapter, vector_hash
from shared_model.core.errors import InputError
from tests.builders.consortium import Consortium
from tests.builders.phantom_patients import SPEC, trained_vector, write_site

CARD = """\
schema: rt-scorecard/2
name: small
version: "1"
metrics:
  - {id: d95, structure: PTV_High, metric: D95%, unit: Gy, direction: higher, weight: 1, points: [[0, 0], [70, 1]],
     constraint: {at_least: 69}}
  - {id: cord, structure: SpinalCord, metric: Max, unit: Gy, direction: lower, weight: 1, points: [[0, 1], [70, 0]]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    site = write_site(tmp_path / "cases")
    site.save(tmp_path / "cases" / "site.yaml")
    (tmp_path / "card.yaml").write_text(CARD)
    save_adapter(tmp_path / "shared.safetensors", SPEC, trained_vector())
    return tmp_path


def test_align_then_report(folder: Path) -> None:
    common = ["--scorecard", str(folder / "card.yaml"), "--data", str(folder / "cases")]
    common += ["--adapter", str(folder / "shared.safetensors")]
    small = ["--set", "candidates=2", "--epochs", "1", "--patients", "2", "--json"]
    made = CliRunner().invoke(app, ["align", *common, "--out", str(folder / "out"), *small], catch_exceptions=False)
    assert made.exit_code == 0, made.output
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert json.loads(made.stdout) == summary
    assert [c["patients"] for c in summary["per_criterion"]] == [3, 0]  # nobody has a cord, and the file says so

    private = ["--private", str(folder / "out" / "private.safetensors"), "--pictures", "1", "--json"]
    private += ["--candidates", "4"]
    shown = CliRunner().invoke(
        app, ["report", *common, "--out", str(folder / "report"), *private], catch_exceptions=False
    )
    assert shown.exit_code == 0, shown.output
    record = json.loads((folder / "report" / "report.json").read_text())
    assert list(record["means"]) == ["reference", "shared", "aligned", "steered", "best"]
    assert record["means"]["steered"]["score"] >= record["means"]["shared"]["score"]
    assert record["means"]["best"]["score"] >= record["means"]["shared"]["score"]
    assert record["means"]["reference"]["mae_ref5_gy"] == 0
    assert record["means"]["aligned"] == pytest.approx(summary["after"])
    assert record["per_criterion"][0]["shared"]["broken"] == 3
    page = (folder / "report" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "coverage against organ dose" in page
    assert "PTV_High D95%" in page


def test_a_changed_card_is_aligned_to_anew_on_adoption(folder: Path) -> None:
    """The shared adapter stays the same, and with it the folder; what was made for the card before is kept aside."""
    invitation = folder / "clinic.invitation"
    invitation.write_bytes(Consortium().invitation("clinic").to_json())
    data = enrol.Data(kind="cases", root=None, site_config=folder / "cases" / "site.yaml")
    home = enrol.create(invitation, folder / "home", data)
    adapter = folder / "shared.safetensors"
    arguments = ["adopt", str(adapter), "--home", str(home.folder), "--set", "epochs=0", "--json"]
    arguments += ["--margin", "first_dose_score_gy=100", "--margin", "first_dvh_score_gy=100"]
    own = home.private_adapters / vector_hash(trained_vector())[:16]
    changed = CARD.replace('version: "1"', 'version: "2"').replace("[[0, 0], [70, 1]]", "[[10, 0], [70, 1]]")
    for card, version, before in ((CARD, "1", None), (changed, "2", "1"), (changed, "2", "1")):
        own_card(home).write_text(card)
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert private_in_use(home, adapter, None) == own / PRIVATE_FILE
        assert _aligned_to(own) == version
        aside = own.with_name(f"{own.name}.previous")
        assert (_aligned_to(aside) if aside.exists() else None) == before


def _aligned_to(folder: Path) -> str:
    return str(json.loads((folder / "align.json").read_text())["card"]["version"])


def test_a_card_is_checked_and_imported(folder: Path) -> None:
    shown = CliRunner().invoke(app, ["scorecard", str(folder / "card.yaml")], catch_exceptions=False)
    assert "PTV_High D95% (Gy, at least 69)" in shown.stdout
    theirs = {"type": "MEAN_DOSE_ROI", "roi_name": "larynx_ours", "objectives": [{"max": 20}, {"max": 40}]}
    (folder / "theirs.json").write_text(json.dumps({"computed": [theirs]}))
    arguments = ["scorecard", str(folder / "theirs.json"), "--out", str(folder / "ours.yaml")]
    with pytest.raises(InputError, match="is not a TG-263 name"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    made = CliRunner().invoke(app, [*arguments, "--name", "larynx_ours=Larynx"], catch_exceptions=False)
    assert made.exit_code == 0
    assert "structure: Larynx" in (folder / "ours.yaml").read_text()
    with pytest.raises(InputError, match="exists already"):
        CliRunner().invoke(app, [*arguments, "--name", "larynx_ours=Larynx"], catch_exceptions=False)


def test_settings_and_data_are_named(tmp_path: Path) -> None:
    assert align_settings(["beta=0.2"], epochs=3).beta == 0.2
    for pair, message in (("bete=1", "unknown"), ("beta", "KEY=VALUE"), ("beta=x", "expected a float")):
        with pytest.raises(InputError, match=message):
            align_settings([pair])
    with pytest.raises(InputError, match="no such folder"):
        data_site(tmp_path / "nowhere")

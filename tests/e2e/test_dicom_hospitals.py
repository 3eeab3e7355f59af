"""Two hospitals with DICOM studies check, join, train over TLS, adopt what they trained and predict with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest

from client.site.config import SiteConfig
from shared_model.bundled import DEFAULT_ADAPTER
from shared_model.core.errors import PolicyError
from tests.builders.small_study import write_small_study
from tests.e2e.conftest import FAST
from tests.e2e.deployment import Deployment, change_policy

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
# One to train on, and three held back: an adapter is tested on no fewer.
PATIENTS = 4
WIDE = [
    f"--margin={key}_gy=100" for key in ("dose_score", "dvh_score", "structure", "first_dose_score", "first_dvh_score")
]


def test_from_dicom_to_an_adopted_adapter_and_back_to_rtdose(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    try:
        deployment.start_coordinator()
        for number, name in enumerate(("north", "south")):
            data = tmp_path / f"archive-{name}"
            for index in range(PATIENTS):
                write_small_study(data / f"Doe^John {index}", number * PATIENTS + index)
            checked = json.loads(deployment.must("client", "check", "--data", data, "--json"))
            assert checked["usable"] == PATIENTS
            join(deployment, name, data)
        for name in ("north", "south"):
            deployment.connected(name)
            ready = json.loads(deployment.must("client", "check", "--home", deployment.site(name), "--json"))
            states = {finding["check"]: finding["state"] for finding in ready["checks"]}
            assert ready["ready"], ready["checks"]
            assert (states["coordinator"], states["clock"], states["keys"]) == ("ok", "ok", "ok")
            assert ready["usable"] == PATIENTS
        outcome = deployment.run("name=dicom", "rounds.count=1", *FAST)
        assert outcome["report"]["sites"] == {"north": 1, "south": 1}
        assert outcome["report"]["drops"] == []
        published = tmp_path / "published"
        deployment.must("server", "publish", published, "--home", deployment.home, "--run", "dicom")
        adopt_and_predict(deployment, published / "adapter.safetensors")
        assert_no_one_is_named(deployment)
    finally:
        deployment.close()


def adopt_and_predict(deployment: Deployment, trained: Path) -> None:
    """One round makes a poor adapter: beside the bundled one it is refused, unless the margins allow anything."""
    home = deployment.site("north")
    first = adopt(deployment, DEFAULT_ADAPTER, *WIDE)
    assert first["acceptance"]["accepted"]
    refused = deployment.command("client", "adopt", trained, "--home", home, "--json")
    assert refused.returncode == PolicyError.exit_code, refused.stderr
    assert "not adopted" in refused.stderr
    assert (home / "adapters" / "shared.safetensors").read_bytes() == DEFAULT_ADAPTER.read_bytes()
    second = adopt(deployment, trained, *WIDE)
    assert second["adapter_sha256"] != first["adapter_sha256"]
    assert second["acceptance"]["checks"][0]["patients"] == PATIENTS - 1
    study, out = deployment.folder / "archive-north" / "Doe^John 2", deployment.folder / "out"
    record = json.loads(
        deployment.must("client", "predict", study, "--out", out, "--home", home, "--mean-of=1", "--json")
    )
    assert record["adapter"] == second["adapter_sha256"][:12]
    dose, plan = pydicom.dcmread(out / "dose.dcm"), pydicom.dcmread(study / "rp.dcm")
    assert dose.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == plan.SOPInstanceUID


def adopt(deployment: Deployment, adapter: Path, *margins: str) -> dict[str, Any]:
    """`client adopt` at the north site, which must take the adapter."""
    home = deployment.site("north")
    return dict(json.loads(deployment.must("client", "adopt", adapter, "--home", home, "--json", *margins)))


def join(deployment: Deployment, name: str, data: Path) -> None:
    """Invite, init with the DICOM folder, admit and start one site."""
    invitation = deployment.folder / f"{name}.invitation"
    home = deployment.site(name)
    deployment.must("server", "invite", name, "--home", deployment.home, "--out", invitation)
    made = json.loads(
        deployment.must("client", "init", invitation, "--home", home, "--data-root", data, "--data", "dicom", "--json")
    )
    change_policy(home, "require_plan: true", "require_plan: false")
    change_policy(home, "known_peers: true", "known_peers: false")
    change_policy(home, "modes: [shared]", "modes: [none]")
    config = SiteConfig.load(home / "site.yaml")
    cases = (*config.train, *config.validation)
    replace(config, threads=1, train=cases[:1], validation=cases[1:]).save(home / "site.yaml")
    deployment.admit(name, Path(made["request"]))
    deployment.spawn("client", home)


def assert_no_one_is_named(deployment: Deployment) -> None:
    """Nothing that the coordinator has, and no log or cache of a site, holds a name, an id or a path of a record."""
    places = [path for path in deployment.home.rglob("*") if path.is_file()]
    for name in ("north", "south"):
        home = deployment.site(name)
        places += [path for part in ("logs", "state", "cache", "flwr") for path in (home / part).rglob("*")]
    looked = 0
    for path in places:
        assert "Doe" not in path.name
        if path.is_file():
            looked += 1
            content = path.read_bytes()
            assert b"Doe^John" not in content, path
            assert b"PHANTOM-" not in content, path
    assert looked > 20

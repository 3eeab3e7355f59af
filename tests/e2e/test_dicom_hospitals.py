"""Two hospitals with DICOM studies check, join, train over TLS and predict with what they trained: real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pydicom
import pytest
from conftest import FAST
from deployment import Deployment
from small_study import write_small_study

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]
PATIENTS = 3


def test_from_dicom_to_a_shared_adapter_and_back_to_rtdose(tmp_path: Path) -> None:
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
        assert outcome["report"]["sites"] == {"north": PATIENTS - 1, "south": PATIENTS - 1}
        assert outcome["report"]["drops"] == []
        published = tmp_path / "published"
        deployment.must("server", "publish", published, "--home", deployment.home, "--run", "dicom")
        study = tmp_path / "archive-north" / "Doe^John 2"
        adapter = published / "adapter.safetensors"
        deployment.must("client", "predict", study, "--out", tmp_path / "out", "--adapter", adapter)
        dose = pydicom.dcmread(tmp_path / "out" / "dose.dcm")
        plan = pydicom.dcmread(study / "rp.dcm")
        assert dose.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == plan.SOPInstanceUID
        assert_no_one_is_named(deployment)
    finally:
        deployment.close()


def join(deployment: Deployment, name: str, data: Path) -> None:
    """Invite, init with the DICOM folder, admit and start one site."""
    invitation = deployment.folder / f"{name}.invitation"
    home = deployment.site(name)
    deployment.must("server", "invite", name, "--home", deployment.home, "--out", invitation)
    made = json.loads(
        deployment.must("client", "init", invitation, "--home", home, "--data-root", data, "--data", "dicom", "--json")
    )
    policy = home / "policy.yaml"
    policy.write_text(policy.read_text().replace("require_plan: true", "require_plan: false"))
    site = home / "site.yaml"
    site.write_text(site.read_text().replace("threads: 0", "threads: 1"))
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

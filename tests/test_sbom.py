"""The software bill of materials: all of constraints.txt is in it, with licences and hashes, in CycloneDX's form."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.builders.deploy_script import deploy_script

HOUSE = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def sbom() -> ModuleType:
    """deploy/sbom.py, which is a script."""
    return deploy_script("sbom")


@pytest.fixture(scope="module")
def bill(sbom: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The file that `make sbom` writes."""
    out = tmp_path_factory.mktemp("sbom") / "sbom.json"
    assert sbom.main([str(out), "--torch", "2.13.0"]) == 0
    return dict(json.loads(out.read_text(encoding="utf-8")))


def test_each_package_of_constraints_txt_is_listed_with_its_licence_and_hashes(bill: dict[str, Any]) -> None:
    text = (HOUSE / "constraints.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ ]+) ", text, re.M))
    assert len(pinned) > 100
    components = {entry["name"]: entry for entry in bill["components"]}
    assert len(components) == len(bill["components"])
    assert {name: entry["version"] for name, entry in components.items()} == {**pinned, "torch": "2.13.0"}
    assert {entry["purl"] for entry in components.values()} >= {f"pkg:pypi/{n}@{v}" for n, v in pinned.items()}
    for name in pinned:
        [choice] = components[name]["licenses"]
        told = choice.get("expression") or choice["license"]["name"]
        assert told not in ("", "UNKNOWN", "LICENSE"), name
        assert len(told) < 100, name
    listed = {
        made["content"]
        for entry in components.values()
        for reference in entry.get("externalReferences", ())
        for made in reference["hashes"]
    }
    assert listed == set(re.findall(r"--hash=sha256:([0-9a-f]{64})", text))
    assert all("externalReferences" in components[name] for name in pinned)


def test_it_has_the_form_of_cyclonedx(bill: dict[str, Any]) -> None:
    """What the 1.6 schema asks for; the file of 2026-11-29 passed CycloneDX's own validator."""
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert set(bill) == {"$schema", "bomFormat", "specVersion", "version", "metadata", "components", "dependencies"}
    own = bill["metadata"]["component"]
    assert (own["type"], own["name"]) == ("application", "fedkt3d")
    references = [own["bom-ref"], *(entry["bom-ref"] for entry in bill["components"])]
    assert len(set(references)) == len(references)
    for entry in bill["components"]:
        assert set(entry) <= {"type", "bom-ref", "name", "version", "purl", "licenses", "externalReferences"}
        assert entry["type"] == "library"
        for reference in entry.get("externalReferences", ()):
            assert set(reference) == {"type", "url", "hashes"}
            assert all(set(made) == {"alg", "content"} and made["alg"] == "SHA-256" for made in reference["hashes"])
    [edge] = bill["dependencies"]
    assert edge == {"ref": own["bom-ref"], "dependsOn": sorted(references[1:])}


def test_it_is_the_same_file_each_time(sbom: ModuleType, tmp_path: Path) -> None:
    for name in ("a", "b"):
        sbom.main([str(tmp_path / name), "--torch", "2.13.0"])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_package_that_is_not_installed_stops_it(
    sbom: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(f"no-such-package==1.0 \\\n    --hash=sha256:{'a' * 64}\n")
    assert sbom.main([str(tmp_path / "out"), "--torch", "2.13.0", "--constraints", str(constraints)]) == 1
    assert "no-such-package is not installed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

"""The wheelhouse: what goes in, that its hashes hold, and that its signature is checked by ssh-keygen."""

from __future__ import annotations

import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

from tests.builders.deploy_script import deploy_script

HOUSE = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheelhouse() -> ModuleType:
    """deploy/wheelhouse.py, which is a script."""
    return deploy_script("wheelhouse")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two things that look like wheels."""
    for name in ("a_b-1.0-py3-none-any.whl", "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_it_takes_what_a_node_needs_as_constraints_txt_pins_it(wheelhouse: ModuleType) -> None:
    names = wheelhouse.needed(wheelhouse.WHAT)
    assert {"flwr", "torch", "pynetdicom", "prometheus-client", "requests"} <= names
    assert not {"fedkt3d", "mypy", "pytest", "ray", "monai"} & names
    pins = wheelhouse.pinned((HOUSE / "constraints.txt").read_text(), names - {"torch"})
    assert f"flwr=={version('flwr')} \\\n    --hash=sha256:" in pins
    assert pins.count("==") == len(names) - 1
    with pytest.raises(KeyError, match="nonesuch"):
        wheelhouse.pinned(pins, {"nonesuch"})


def test_each_wheel_is_asked_for_by_its_hash(wheelhouse: ModuleType, folder: Path) -> None:
    wheelhouse.finish(folder, None)
    lines = (folder / "requirements.txt").read_text().splitlines()
    hashes = [wheelhouse.sha256(path) for path in sorted(folder.glob("*.whl"))]
    assert lines == [f"a-b==1.0 --hash=sha256:{hashes[0]}", f"torch==2.13.0+cpu --hash=sha256:{hashes[1]}"]


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen here")
def test_a_changed_wheelhouse_is_found_out(wheelhouse: ModuleType, folder: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    public = key.with_suffix(".pub").read_text()
    for path in (key, key.with_suffix(".pub")):
        path.rename(tmp_path.parent / path.name)
    wheelhouse.finish(folder, tmp_path.parent / "key")
    allowed = tmp_path.parent / "allowed"
    allowed.write_text(f"builder {public}")
    verify = ["ssh-keygen", "-Y", "verify", "-f", str(allowed), "-I", "builder", "-n", "fedkt3d-wheelhouse"]
    verify += ["-s", str(folder / "SHA256SUMS.sig")]

    def holds() -> bool:
        signed = subprocess.run(verify, input=(folder / "SHA256SUMS").read_bytes(), capture_output=True, check=False)
        summed = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=folder, capture_output=True, check=False)
        return signed.returncode == 0 and summed.returncode == 0

    assert holds()
    wheel = folder / "a_b-1.0-py3-none-any.whl"
    wheel.write_bytes(b"another")
    assert not holds()
    (folder / "SHA256SUMS").write_text(wheelhouse.sums(folder))
    assert not holds(), "the sums fit, and nobody signed them"

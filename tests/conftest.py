"""Settings and fixtures of all tests."""

from pathlib import Path

import pytest
from hypothesis import settings

from tests.builders.wan_files import write_checkpoint

# Hypothesis fails an example that takes 200 ms: on a busy machine that says nothing of the code (pytest-timeout does).
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")


@pytest.fixture(scope="session")
def wan_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Wan checkpoint that diffusers wrote; to be read only."""
    return write_checkpoint(tmp_path_factory.mktemp("wan"))


@pytest.fixture
def wan(wan_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as this machine's Wan checkpoint."""
    monkeypatch.setenv("FEDKT3D_WAN", str(wan_checkpoint))
    return wan_checkpoint

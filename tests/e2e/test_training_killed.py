"""kill -9 of `simulate train`: what is trained from its last checkpoint on has the weights of an undisturbed run."""

import hashlib
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from shared_model.training.run import CHECKPOINT
from tests.e2e.deployment import SCRIPTS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

# One phantom hospital of 16^3 voxels; a row, a checkpoint and an adapter each two samples.
ASKED = (
    "data=phantom", "data.sites=1", "data.patients=3", "data.edge=16", "size=small", "every=2", "sampled=0",
    "precision=fp32", "device=cpu", "threads=1",
)  # fmt: skip


def command(out: Path, samples: int) -> list[str]:
    return [str(SCRIPTS / "simulate"), "train", *ASKED, f"out={out}", f"samples={samples}"]


def trained(out: Path, samples: int) -> dict[str, object]:
    """Train to ``samples``; what is left, but for the time that it took."""
    subprocess.run(command(out, samples), check=True, capture_output=True, timeout=600)
    state = torch.load(out / CHECKPOINT, weights_only=True)
    digest = hashlib.sha256()
    for weights in (*state["network"].values(), *state["average"]):
        digest.update(weights.contiguous().numpy().tobytes())
    return {
        "weights": digest.hexdigest(),
        "step": state["step"],
        "curve": [{key: value for key, value in row.items() if key != "cpu_min"} for row in state["curve"]],
        "adapter": hashlib.sha256((out / "adapter.safetensors").read_bytes()).hexdigest(),
    }


def test_a_killed_training_goes_on_to_the_weights_of_an_undisturbed_one(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    # It would train for hours: so it is always in the middle when it is killed.
    process = subprocess.Popen(command(killed, 10**6), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 600
        while not (killed / CHECKPOINT).is_file():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.3)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    reached = torch.load(killed / CHECKPOINT, weights_only=True)["step"]
    assert reached >= 1
    samples = 2 * (reached + 2)
    found = trained(killed, samples)
    assert found["step"] == reached + 2
    assert found == trained(whole, samples)

"""Two real processes over gloo against one process that sees the same patients."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from privacy.flower.processes import free_loopback_port
from shared_model.channels.volumes import patient_channels
from shared_model.core.errors import InputError
from shared_model.training.recipe import Recipe
from shared_model.training.run import Trainer
from shared_model.training.together import CPU, Together
from tests.builders.small_case import TINY, small_case

HOUSE = Path(__file__).parents[3]
# Patients of other sizes and modalities: their chances and the parameters that they use differ.
CODE = """\
import json, sys
from pathlib import Path
import torch
from shared_model.channels.volumes import patient_channels
from shared_model.training.recipe import Recipe
from shared_model.training.run import Trainer, run
from shared_model.training.together import joined
from tests.builders.small_case import TINY, small_case

torch.set_num_threads(1)
out, samples = Path(sys.argv[1]), int(sys.argv[2])
patients = [patient_channels(small_case()), patient_channels(small_case("b", ct_hu=None, beam_plate=None))]
with joined("cpu") as together:
    trainer = Trainer(Recipe(seed=3, warmup=2, any_share=0.5), TINY, patients, "fp32", together)
    rows = []
    run(trainer, out / f"of-{together.count}", samples=samples, every=4,
        validate=lambda t: {"score": float(sum(p.abs().sum() for p in t.average))},
        told=lambda t, row: rows.append(row) if row else None)
    torch.save([p.detach() for p in trainer.network.parameters()], out / f"{together.number}-of-{together.count}.pt")
    unused = sum(p not in trainer.optimiser.state for p in trainer.network.parameters())
    (out / f"{together.number}-of-{together.count}.json").write_text(json.dumps({"rows": rows, "unused": unused}))
"""


def train(out: Path, count: int, samples: int) -> list[dict[str, object]]:
    """Run CODE in ``count`` processes, with what torchrun gives each in its environment."""
    port = str(free_loopback_port())
    started = []
    for number in range(count):
        environment = {
            **os.environ, "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        command = [sys.executable, "-c", CODE, str(out), str(samples)]
        started.append(subprocess.Popen(command, cwd=HOUSE, env=environment, stderr=subprocess.PIPE, text=True))
    for process in started:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said
    return [json.loads((out / f"{number}-of-{count}.json").read_text()) for number in range(count)]


def test_two_processes_take_the_step_of_one_that_has_both_patients(tmp_path: Path) -> None:
    import torch

    (alone,) = train(tmp_path, 1, 12)
    train(tmp_path, 2, 6)
    leader, other = train(tmp_path, 2, 12)  # goes on from the first leg's checkpoint
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("0-of-1", "0-of-2", "1-of-2"))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    # Two gradients are summed in one order only: what is left is the rounding of a kernel that sums by threads.
    assert all(torch.allclose(a, b, rtol=0, atol=1e-7) for a, b in zip(one, first, strict=True))
    assert leader["unused"] == other["unused"] == alone["unused"]
    assert other["rows"] == []
    kept = ("samples", "train_gy", "rate")
    curves = [
        [line.split(",") for line in (tmp_path / f"of-{n}" / "curve.csv").read_text().splitlines()] for n in (1, 2)
    ]
    places = [curves[0][0].index(key) for key in kept]
    assert [[row[k] for k in places] for row in curves[0]] == [[row[k] for k in places] for row in curves[1]]
    assert len(curves[0]) == 4


def test_more_processes_than_patients_of_a_step_are_refused() -> None:
    with pytest.raises(InputError, match="3 processes: a step has 2 patients; start as many at most"):
        Trainer(Recipe(), TINY, [patient_channels(small_case())], "fp32", Together(device=CPU, number=0, count=3))

"""What the U-shaped network costs on a CPU: a prediction of a case at native resolution, and training by size.

``python -m simulations.benchmarks.pyramid_cost [--case FILE] [--json]``. FILE: one patient as `client predict` takes
them, such as ``full128/pt_201.npz`` of a converted OpenKBP; without it a phantom of 128^3. Each row is measured in a
process of its own, so that its peak of memory is its own: libraries, weights, the case and all. Wall seconds say what
the machine left; CPU seconds say what was needed. Goals: one step within 15 s, ten steps of four candidates within
120 s, 4 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from client.prediction.predict import Predictor, Sampled
from client.prediction.subject import load_subject
from shared_model.channels.volumes import patient_channels
from shared_model.network.device import compute_dtype
from shared_model.network.pyramid import SIZES, PyramidSpec
from shared_model.patient.case import Case
from shared_model.training.recipe import Recipe
from shared_model.training.run import Trainer
from simulations.phantom.hospitals import STYLES, phantom_case

SIDES = (32, 48, 64)
STEPS = 4
NATIVE = 128
# (steps, candidates): the default, and what shows candidates.
DRAWN = ((1, 1), (10, 4))


def measure_prediction(case: Case, steps: int, candidates: int) -> dict[str, float]:
    """Seconds of one `client predict` of a case with its defaults, after the adapter is loaded."""
    predictor = Predictor(device="cpu")
    wall, cpu = time.perf_counter(), time.process_time()
    predictor.predict(case, Sampled(samples=candidates, steps=steps))
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "peak_gb": _peak_gb()}


def measure_training(side: int, precision: str, spec: PyramidSpec | None = None) -> dict[str, float]:
    """Seconds a sample over STEPS steps of the recipe, on phantoms of ``side`` voxels a side; a first step is apart."""
    patients = [patient_channels(phantom_case(seed, STYLES["openkbp_like"], (side, side, side))) for seed in (0, 1)]
    trainer = Trainer(Recipe(), spec or PyramidSpec(), patients, precision)
    trainer.advance()
    before, wall, cpu = trainer.samples, time.perf_counter(), time.process_time()
    for _ in range(STEPS):
        trainer.advance()
    done = trainer.samples - before
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"samples_s": done / wall, "samples_cpu_s": done / cpu, "peak_gb": _peak_gb()}


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _apart(asked: dict[str, Any]) -> dict[str, float]:
    """One measurement in a process of its own."""
    command = [sys.executable, "-m", "simulations.benchmarks.pyramid_cost", "--one", json.dumps(asked)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def _precisions() -> tuple[str, ...]:
    """bf16 only where the CPU computes in it: elsewhere it would be the same float32 again (network/device.py)."""
    usual = compute_dtype(torch.device("cpu"), "bf16")
    return ("bf16", "fp32") if usual == torch.bfloat16 else ("fp32",)


def _one(asked: dict[str, Any]) -> dict[str, float]:
    torch.set_num_threads(asked["threads"])
    if "side" in asked:
        return measure_training(asked["side"], asked["precision"], SIZES[asked["size"]])
    if asked["case"]:
        case = load_subject(Path(asked["case"])).case
    else:
        case = phantom_case(0, STYLES["openkbp_like"], (NATIVE, NATIVE, NATIVE))
    return measure_prediction(case, asked["steps"], asked["candidates"])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", default="", help="one patient's file; default: a phantom")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(_one(json.loads(chosen.one))))
        return
    asked: list[dict[str, Any]] = [
        {"threads": threads, "case": chosen.case, "steps": steps, "candidates": candidates}
        for steps, candidates in DRAWN
        for threads in (1, 2)
    ]
    asked += [
        {"threads": threads, "side": side, "precision": precision, "size": size}
        for size in SIZES
        for side in SIDES
        for precision in _precisions()
        for threads in (1, 2)
    ]
    rows = [{**one, **_apart(one)} for one in asked]
    if chosen.json:
        print(json.dumps(rows))
        return
    print("| prediction of one case | threads | wall (s) | CPU-s | peak (GB) |\n|---|---:|---:|---:|---:|")
    for row in rows:
        if "steps" in row:
            what = f"{row['steps']} steps, {row['candidates']} candidates"
            print(f"| {what} | {row['threads']} | {row['wall_s']:.1f} | {row['cpu_s']:.1f} | {row['peak_gb']:.2f} |")
    print("\n| training | size | precision | threads | samples/s | samples/CPU-s | peak (GB) |")
    print("|---|---|---|---:|---:|---:|---:|")
    for row in rows:
        if "side" in row:
            print(
                f"| {row['side']}^3 | {row['size']} | {row['precision']} | {row['threads']} | {row['samples_s']:.2f} "
                f"| {row['samples_cpu_s']:.2f} | {row['peak_gb']:.2f} |"
            )


if __name__ == "__main__":
    main()

"""Candidate doses of one patient per second: batched sampling with kept conditions against a plain loop, in one run.

``python -m simulations.benchmarks.scorecard_candidates [--json]``: the bundled adapter on one phantom patient, K = 8
candidates, one thread. The plain loop samples one candidate after the other and computes the conditions anew for each.
Both give the same candidates up to the rounding of bf16 (the benchmark checks it). Reward is what alignment
computes of them: doses on the patient's grid and their scores under a card.
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from client.adapters.patients import ScoredPatient
from shared_model.adapter.manifest import load_adapter, unpack
from shared_model.adapter.shared import adapted_model
from shared_model.base.model import base_gy
from shared_model.bundled import DEFAULT_ADAPTER, SCORECARDS
from shared_model.forms.interface import form_of
from shared_model.scoring.scorecard_read import read_scorecard
from simulations.phantom.hospitals import STYLES, phantom_case

K, REPEATS = 8, 2
CARD = SCORECARDS / "head_neck.yaml"


def measure(steps: int) -> dict[str, float]:
    """CPU seconds of K candidates, the least over REPEATS: in a plain loop, batched, and of their reward."""
    spec, vector, _ = load_adapter(DEFAULT_ADAPTER)
    model = adapted_model(spec)
    unpack(model, vector)
    model.eval()
    form = form_of(spec)
    case = phantom_case(0, STYLES["openkbp_like"])
    base = base_gy(case, spec, model)
    seen = form.encode(case, base)
    patient = ScoredPatient(case=case, encoded=seen, base=base, card=read_scorecard(CARD).bind(case), form=form)
    noise = form.noise(seen, K, torch.Generator().manual_seed(0))
    found: dict[str, list[float]] = {"plain": [], "batched": [], "reward": []}
    for _ in range(REPEATS):
        results = []
        for name, parts in (("plain", noise.split(1)), ("batched", (noise,))):
            started = time.process_time()
            with torch.no_grad():
                drawn = [form.sampled(form.denoiser(model.network, seen), part, steps) for part in parts]
            results.append(torch.cat(drawn))
            found[name].append(time.process_time() - started)
        difference = float((results[0] - results[1]).abs().mean() / results[0].std())
        if difference > 0.05:
            raise SystemExit(f"the two ways differ by {difference:.3f} standard deviations; expected rounding")
        started = time.process_time()
        patient.card.score(patient.doses(form.decode(results[1])))
        found["reward"].append(time.process_time() - started)
    return {name: min(seconds) for name, seconds in found.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    torch.set_num_threads(1)
    rows = {f"{steps} steps": measure(steps) for steps in (2, 10)}
    if as_json:
        print(json.dumps(rows))
        return
    print("| sampling | plain loop, CPU-s | batched, CPU-s | speed-up | candidates a second | with reward |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, row in rows.items():
        whole = row["batched"] + row["reward"]
        print(
            f"| {name} | {row['plain']:.2f} | {row['batched']:.2f} | {row['plain'] / row['batched']:.1f} | "
            f"{K / row['batched']:.1f} | {K / whole:.1f} |"
        )


if __name__ == "__main__":
    main()

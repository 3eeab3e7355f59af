"""What the training grid alone costs: the reference dose to the grid and back, scored as a prediction.

``python -m simulations.benchmarks.resolution_loss [--json]``; needs FEDKT3D_OPENKBP. Decision 1 rests on it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path

import numpy as np
import torch

from client.data.load import load_split
from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid, Resampler, back_project, masked_average, roi_grid
from shared_model.scoring.dosimetry import CaseScore, score_case, summarise
from simulations.data.partition import openkbp_split

SHAPE = (32, 32, 32)


def field_grid(case: Case) -> Grid:
    """The grid of SHAPE that covers the whole field of view."""
    return roi_grid(np.ones_like(case.body), case.grid, SHAPE)


def body_grid(case: Case) -> Grid:
    """The grid of SHAPE that covers the body: the one that the model sees."""
    return roi_grid(case.body, case.grid, SHAPE)


def there_and_back(case: Case, grid: Grid, iterations: int) -> CaseScore:
    """Score of the reference dose after averaging it onto ``grid`` and upsampling it with back-projection."""
    assert case.dose_gy is not None
    body = torch.from_numpy(case.body)
    coarse = masked_average(torch.from_numpy(case.dose_gy), body, Resampler(case.grid, grid))
    return score_case(case, back_project(coarse, body, case.grid, grid, iterations))


def main() -> None:
    """Print the table for OpenKBP's validation patients."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    root = os.environ.get("FEDKT3D_OPENKBP")
    if not root:
        print("skipped: FEDKT3D_OPENKBP does not name the OpenKBP data set")
        return
    cases = load_split(openkbp_split(Path(root), "validation"), "validation")
    rows = []
    for name, grid_of in (("field of view", field_grid), ("body", body_grid)):
        for iterations in (0, 6):
            scores = [there_and_back(case, grid_of(case), iterations) for case in cases]
            spread = statistics.stdev(score.dose_score_gy for score in scores)
            found = summarise(scores)
            rows.append(
                {
                    "32^3 voxels over": name,
                    "back-projections": iterations,
                    "dose_score_gy": round(found["dose_score_gy"], 3),
                    "sd_over_patients": round(spread, 3),
                    "dvh_score_gy": round(found["dvh_score_gy"], 3),
                }
            )
    if as_json:
        print(json.dumps(rows))
        return
    print("| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")


if __name__ == "__main__":
    main()

"""Writes independent_dvh.json: DVH statistics of dicompyler-core (BSD licence), an implementation that is not ours.

It needs pydicom 2 and numpy 1, so it is no dependency; in an environment of its own:
``pip install dicompyler-core==0.5.6 'pydicom<3' 'numpy<2'; python tests/golden/make_independent_dvh.py``.
The volumes are made from a seed, the same here and in tests/shared_model/test_partial_volume.py.
"""

import json
from pathlib import Path

import numpy as np
from dicompylercore.dvh import DVH

STATISTICS = ("D99", "D95", "D50", "D2", "V20Gy", "V45Gy", "V60Gy")
VOXEL_CC = 0.027


def volume(seed: int) -> np.ndarray:
    """Doses (Gy) of the voxels of one structure."""
    random = np.random.RandomState(seed)
    return np.clip(random.normal(20.0 * seed, 4.0 + 3.0 * seed, 4000 * seed), 0.1, 79.0)


def main() -> None:
    found = {}
    for seed in (1, 2, 3):
        dose = volume(seed)
        counts, edges = np.histogram(dose, bins=np.arange(0.0, 80.001, 0.01))
        dvh = DVH(counts * VOXEL_CC, edges, dvh_type="differential", dose_units="Gy", volume_units="cm3").cumulative
        values = {name: float(dvh.statistic(name).value) for name in STATISTICS}
        found[str(seed)] = {**values, "D0.1cc": float(dvh.statistic("D0.1cc").value), "mean": float(dvh.mean)}
    path = Path(__file__).with_name("independent_dvh.json")
    path.write_text(
        json.dumps({"library": "dicompyler-core 0.5.6", "voxel_cc": VOXEL_CC, "seeds": found}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()

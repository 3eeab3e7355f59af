"""Curves over rounds are drawn, with gaps where a number is missing."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from shared_model.core.errors import InputError
from simulations.reports.curves import curves_picture


def test_no_point_at_all_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no point in any curve"):
        curves_picture(tmp_path / "curves.png", {"federated": []}, "round", "Gy")
    assert list(tmp_path.iterdir()) == []


def test_curves_picture(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    curves = {f"study {k}": [(float(i), 20.0 / (i + k + 1)) for i in range(20)] for k in range(9)}
    curves["gap"] = [(0.0, 1.0), (1.0, float("nan")), (2.0, 3.0)]
    curves["empty"] = []
    curves_picture(path, curves, "round", "dose score (Gy)", title="Validation")
    assert np.ptp(imread(path)[..., :3]) > 0.9

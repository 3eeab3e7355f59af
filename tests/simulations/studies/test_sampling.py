import json
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress

from shared_model.adapter.manifest import initial_vector, save_adapter
from shared_model.core.errors import InputError
from shared_model.network.spec import ModelSpec
from simulations.studies.sampling import ALL_OARS, compare_steps, sampling_settings, spread


def test_one_row_a_number_of_steps_and_the_spread_where_there_is_one(tmp_path: Path) -> None:
    spec = ModelSpec(network="pyramid", prior="none", adapter="bias")
    adapter = tmp_path / "a.safetensors"
    save_adapter(adapter, spec, initial_vector(spec))
    asked = ["data.sites=1", "data.patients=4", "steps=[1,2]", "candidates=2", "threads=1", "device=cpu"]
    settings = sampling_settings([f"adapter={adapter}", f"out={tmp_path / 'out'}", *asked])
    with Progress(disable=True) as bars:
        text = compare_steps(settings, bars)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert set(summary["steps"]) == {"1", "2"}
    assert summary["steps"]["1"]["dose_single"] == summary["steps"]["1"]["dose_mean"]
    assert set(summary["spread"]) == {"2"}
    assert summary["spread"]["2"][ALL_OARS]["sd"] > 0
    assert (tmp_path / "out" / "sampling.md").read_text() == text


def test_spread_of_known_rows() -> None:
    """Candidates 9 and 11 about 10 where 13 was planned: sd 2^0.5, error 3."""
    found = spread({"Larynx": [[9.0, 11.0, 13.0]], "PTV_7000": [[70.0, 70.0, 70.0]]})
    assert found["Larynx"] == pytest.approx({"patients": 1, "sd": 2**0.5, "rms": 3.0, "ratio": 2**0.5 / 3})
    assert found[ALL_OARS] == found["Larynx"]
    assert found["PTV_7000"]["sd"] == 0.0
    calibrated = np.random.default_rng(0).normal(20.0, 2.0, (4000, 9))
    assert spread({"Cord": calibrated.tolist()})["Cord"]["ratio"] == pytest.approx((9 / 8) ** -0.5, abs=0.03)


def test_settings_are_checked_by_name() -> None:
    for wrong, told in (("steps=[]", "steps"), ("candidates=1", "candidates"), ("device=gpu", "device")):
        with pytest.raises(InputError, match=told):
            sampling_settings([wrong])

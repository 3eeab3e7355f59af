"""`simulate private-base` and `simulate phantom-base` at toy size."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from simulations.studies.private_base import private_base_settings, run_private_base, write_public_base


def test_a_toy_study_ends_in_a_table_of_every_variant(tmp_path: Path) -> None:
    asked = ["data=phantom", "data.sites=3", "data.patients=2", "data.edge=16", f"data.root={tmp_path / 'data'}"]
    asked += ["privacy.epsilon=[8.0]", "directions=2", "steps=[1]", "rates=[0.5]", "seeds=1", "phantoms=2"]
    report = run_private_base(private_base_settings([*asked, f"out={tmp_path / 'out'}"]))
    assert (tmp_path / "out" / "private_base.md").read_text() == report + "\n"
    found = json.loads((tmp_path / "out" / "private_base.json").read_text())
    assert [fit["mode"] for fit in found["fits"]] == ["public", "none", "shared", "local"]
    assert found["patients"] == 3, "the one training patient of each hospital"
    assert all(0 < fit["dose_score_gy"] < 100 for fit in found["fits"])
    # Hospitals of phantoms have the names of the phantoms that teach the public part: each has rows of its own.
    assert len(list((tmp_path / "out").rglob("rows/*.npz"))) == 4 + 3
    # Who colludes with all others finds out more, and in mode local nothing is shared that they could take away.
    shared, local = found["fits"][2:]
    assert shared["epsilon_all_others_collude"] > shared["epsilon"] == local["epsilon"] == 8.0
    assert local["epsilon_all_others_collude"] < shared["epsilon_all_others_collude"]


def test_the_public_part_is_written_with_its_card(tmp_path: Path) -> None:
    said = write_public_base(tmp_path, 2, 3)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["sha256"] == hashlib.sha256((tmp_path / "public.npz").read_bytes()).hexdigest()
    assert card["sha256"] in said
    assert (card["phantom_patients"], "--phantoms 2 --directions 3" in card["recipe"]) == (4, True)
    with np.load(tmp_path / "public.npz") as file:
        assert file["directions"].shape == (file["weights"].size, 3)

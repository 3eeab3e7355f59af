"""`simulate private-cohorts`: noise falls with the cohort, clips hold, and the table says what was fitted."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.progress import Progress

from shared_model.core.errors import InputError
from simulations.studies import private_cohorts as study

TINY = [
    "public=12", "held=12", "cohorts=[6,20]", "numbers=[5,20]", "steps=4", "rows=10", "side=12", "seeds=[0]",
    "workers=1",
]  # fmt: skip


def bars() -> Progress:
    return Progress(disable=True)


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    """Fewer phantoms a file than the study keeps, for they are what takes time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "KEPT", 20)
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cohorts")


@pytest.fixture(scope="module")
def table(out: Path) -> str:
    return study.run_private_cohorts(study.private_cohorts_settings([*TINY, f"out={out}"]), bars())


def test_each_cell_is_there_and_the_same_again(out: Path, table: str) -> None:
    cells = json.loads((out / "private_cohorts.json").read_text())["cells"]
    assert len(cells) == 2 * (1 + 2 * 3)
    assert all(0 < cell["mae_gy"] < 100 for cell in cells)
    for cell in cells:
        assert f"{cell['mae_gy']:.2f}" in table
    written = {path: path.stat().st_mtime_ns for path in (out / "rows").iterdir()}
    assert study.run_private_cohorts(study.private_cohorts_settings([*TINY, f"out={out}"]), bars()) == table
    assert {path: path.stat().st_mtime_ns for path in (out / "rows").iterdir()} == written


def test_noise_moves_a_small_cohort_more(out: Path, table: str) -> None:
    """The same steps with and without noise: of 20 patients they lie nearer to each other than of 6."""
    settings = study.private_cohorts_settings([*TINY, f"out={out}"])
    public = study._group(settings, settings.public_style, study.PUBLIC, settings.public, bars())
    cohort = study._group(settings, settings.style, study.COHORT, 20, bars())
    features = study._map(public, 20, 0)
    start, rate, clip = study._public_fit(public, features)
    apart = []
    for size in (6, 20):
        moved = [
            study._private_fit(settings, cohort.first(size), features, start, rate, clip, value, 0)
            for value in (1e3, 0.5)
        ]
        apart.append(float((moved[0] - moved[1]).norm()))
    assert apart[1] < 0.5 * apart[0]


def test_no_patient_moves_a_step_by_more_than_the_clip(out: Path, table: str) -> None:
    settings = study.private_cohorts_settings([*TINY, f"out={out}", "steps=1"])
    public = study._group(settings, settings.public_style, study.PUBLIC, settings.public, bars())
    features = study._map(public, 20, 0)
    start, rate, _ = study._public_fit(public, features)
    clip = 1e-6
    moved = study._private_fit(settings, public, features, start, rate, clip, 1e3, 0) - start
    assert 0 < float(moved.norm()) <= (1 - study.MOMENTUM) * rate * clip * (1 + 0.2 * math.sqrt(20)) * 1.01


def test_groups_share_no_patient(out: Path, table: str) -> None:
    settings = study.private_cohorts_settings([*TINY, f"out={out}"])
    held = study._group(settings, settings.style, study.HELD, 12, bars())
    cohort = study._group(settings, settings.style, study.COHORT, 20, bars()).first(12)
    assert not torch.equal(held.features, cohort.features)


@pytest.mark.parametrize("bad", ["style=nobody", "cohorts=[0]", "numbers=[0]", "privacy.epsilon=[0]", "side=4"])
def test_bad_settings_are_named(bad: str) -> None:
    with pytest.raises(InputError, match=bad.split("=")[0].split(".")[-1]):
        study.private_cohorts_settings([bad])

"""Base doses that a site keeps for alignment: made anew when damaged, and when the package's coefficients change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.adapters.patients import load_patients
from client.data.case_files import save_case
from client.site.config import SiteConfig
from shared_model.adapter.shared import adapted_model
from shared_model.base import phantom as phantom_base
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Volume
from shared_model.scoring.scorecard_read import parse_scorecard
from tests.builders.phantom_patients import patient

SPEC = ModelSpec(prior="none", shape=(16, 16, 16), precision="fp32", base="phantom")
CARD = """\
schema: rt-scorecard/2
name: one
version: "1"
metrics:
  - {id: d95, structure: PTV_High, metric: D95%, unit: Gy, direction: higher, weight: 1, points: [[0, 0], [70, 1]]}
"""


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    save_case(tmp_path / "cases" / "case0.npz", patient(0))
    return SiteConfig(
        site="clinic", data="cases", root=tmp_path / "cases", train=("case0",), validation=(), cache=tmp_path / "cache"
    )


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package as it is after an update: other public coefficients."""
    with np.load(phantom_base.PUBLIC) as file:
        arrays = dict(file)
    np.savez(tmp_path / "public.npz", **{**arrays, "weights": arrays["weights"] * 1.1})
    monkeypatch.setattr(phantom_base, "PUBLIC", tmp_path / "public.npz")
    _forget_package()
    yield
    monkeypatch.undo()
    _forget_package()


def _forget_package() -> None:
    phantom_base.public_base.cache_clear()
    phantom_base.public_hash.cache_clear()


def base(site: SiteConfig) -> Volume:
    (one,) = load_patients(site, site.train, SPEC, adapted_model(SPEC), parse_scorecard(CARD))
    assert one.base is not None
    return one.base


def test_a_damaged_base_is_made_anew(site: SiteConfig) -> None:
    assert site.cache is not None
    first = base(site)
    (kept,) = (site.cache / "base").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    np.testing.assert_array_equal(base(site), first)
    assert kept.read_bytes() != whole[: len(whole) // 2]


def test_a_base_of_other_public_coefficients_is_not_taken(site: SiteConfig, request: pytest.FixtureRequest) -> None:
    before = base(site)
    request.getfixturevalue("other_package")
    now = base(site)
    assert np.abs(now - before).max() > 1.0
    np.testing.assert_array_equal(now, base(replace(site, cache=None)))

"""Case files: exact round trip; every kind of damage is one clear InputError; a failed write leaves the old file."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.data import load as cohort
from client.data.case_files import load_case, save_case
from client.site.config import SiteConfig
from shared_model.core import files
from shared_model.core.errors import InputError
from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid

SHAPE = (5, 6, 7)  # 210 voxels: not a multiple of 8, so packed bits have a tail


@pytest.fixture
def case() -> Case:
    rng = np.random.default_rng(0)
    body = rng.random(SHAPE) > 0.2
    return Case(
        case_id="p1",
        grid=Grid(SHAPE, (2.5, 3.0, 3.5), (-10.0, 4.0, 0.1)),
        body=body,
        structures={"PTV_7000": rng.random(SHAPE) > 0.7, "SpinalCord": rng.random(SHAPE) > 0.7},
        prescriptions_gy={"PTV_7000": 70.0},
        ct_hu=rng.normal(0, 300, SHAPE).astype(np.float32),
        angle_plate=rng.random(SHAPE).astype(np.float32),
        gantry_deg=(0.0, 120.5),
        dose_gy=(rng.random(SHAPE) * 70).astype(np.float32),
    )


@pytest.fixture
def path(case: Case, tmp_path: Path) -> Path:
    save_case(tmp_path / "p1.npz", case)
    return tmp_path / "p1.npz"


def _rewrite(path: Path, header: dict[str, Any], drop: tuple[str, ...], arrays: dict[str, Any]) -> None:
    with np.load(path) as archive:
        content = {key: archive[key] for key in archive.files if key not in drop}
    if header:
        old = json.loads(content["header"].tobytes())
        content["header"] = np.frombuffer(json.dumps({**old, **header}).encode(), dtype=np.uint8)
    np.savez(path, **{**content, **arrays})


def test_round_trip_is_exact(case: Case, path: Path) -> None:
    again = load_case(path)
    for entry in fields(Case):
        before, after = getattr(case, entry.name), getattr(again, entry.name)
        if entry.name == "structures":
            assert list(before) == list(after)
            assert all(np.array_equal(before[name], after[name]) for name in before)
        elif isinstance(before, np.ndarray):
            assert before.dtype == after.dtype
            assert np.array_equal(before, after)
        else:
            assert before == after, entry.name


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.95, 0.999])
def test_truncated_file(path: Path, kept: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    _expect(path, "truncated")


def test_flipped_byte_is_noticed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    with np.load(path) as archive:
        assert "ct_hu" in archive.files
    # Inside the compressed CT: the archive's checksum must catch it.
    content[content.find(b"ct_hu.npy") + 200] ^= 0xFF
    path.write_bytes(bytes(content))
    _expect(path, "truncated")


def test_missing_file(tmp_path: Path) -> None:
    _expect(tmp_path / "absent.npz", "no such file")


def test_pickled_objects_are_never_loaded(path: Path) -> None:
    _rewrite(path, {}, (), {"body": np.array([{"a": 1}], dtype=object)})
    _expect(path, "npz archive")


@pytest.mark.parametrize(
    ("header", "drop", "arrays", "says"),
    [
        ({}, ("body",), {}, "missing array 'body'"),
        ({}, ("header",), {}, "missing array 'header'"),
        ({"schema": 2}, (), {}, "schema 2"),
        ({"extra": 1}, (), {}, "'extra'"),
        ({"shape": [5, 6]}, (), {}, "'shape'"),
        ({"shape": [5, 6, 9]}, (), {}, "outside the grid"),
        ({"spacing_mm": [1.0, 0.0, 1.0]}, (), {}, "spacing"),
        ({"structures": ["PTV_7000"]}, (), {}, "masks for 1"),
        ({"structures": ["PTV_7000", "Lips"]}, (), {}, "unknown structure 'Lips'"),
        ({"prescriptions_gy": {}}, (), {}, "no prescription"),
        ({"prescriptions_gy": {"PTV_7000": None}}, (), {}, "wrong type"),
        ({}, (), {"body": np.zeros(27, dtype=np.uint8)}, "body mask is empty"),
        ({}, (), {"masks": np.zeros((2, 40), dtype=np.uint8)}, "outside the grid"),
        ({}, (), {"dose_gy": np.full(SHAPE, -1.0)}, "dose is negative"),
        ({}, (), {"dose_gy": np.full(SHAPE, 7000.0)}, "cGy"),
        ({}, (), {"dose_gy": np.zeros((5, 6, 8))}, "dose_gy has shape"),
        ({}, (), {"ct_hu": np.full(SHAPE, np.nan)}, "not finite"),
        ({}, (), {"header": np.zeros(4, dtype=np.uint8)}, "JSON"),
        ({"shape": [float("inf"), 6, 7]}, (), {}, "grid shape"),
        ({"shape": [5.0, 6, 7]}, (), {}, "grid shape"),
        ({"shape": [2**32, 2**32, 2**32]}, (), {}, "outside the grid"),
        ({"origin_mm": [[1.0], 2.0, 3.0]}, (), {}, "origin"),
        ({"prescriptions_gy": {"PTV_7000": 10**400}}, (), {}, "header"),
        ({"structures": ["PTV_7000", "PTV_7000"]}, (), {}, "twice"),
        ({"structures": {"PTV_7000": 1, "SpinalCord": 2}}, (), {}, "structures"),
        ({"case_id": 5}, (), {}, "case_id"),
        ({}, (), {"masks": np.uint8(3)}, "masks"),
        ({}, (), {"ct_hu": np.full(SHAPE, 1j)}, "ct_hu"),
        ({}, (), {"header": np.array("{")}, "header"),
    ],
)
def test_bad_content(path: Path, header: dict[str, Any], drop: tuple[str, ...], arrays: Any, says: str) -> None:
    _rewrite(path, header, drop, arrays)
    _expect(path, says)


def _expect(path: Path, says: str) -> None:
    with pytest.raises(InputError) as caught:
        load_case(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_interrupted_write_keeps_the_old_file(path: Path, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full_disk(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(files.StorageError, match="No space"):
        save_case(path, case)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_cohort_reads_what_the_site_lists(path: Path, case: Case) -> None:
    site = SiteConfig(site="n", data="cases", root=path.parent, train=("p1",), validation=("p2",))
    assert [found.case_id for found in cohort.load_split(site, "train")] == ["p1"]
    with pytest.raises(InputError, match=r"p2\.npz: no such file"):
        cohort.load_split(site, "validation")
    with pytest.raises(InputError, match="split 'test'"):
        cohort.load_split(site, "test")
    with pytest.raises(InputError, match=r"case id '\.\./p1'"):
        cohort.load_case(site, "../p1")
    path.rename(path.with_name("p2.npz"))
    with pytest.raises(InputError, match=r"p2\.npz: the file holds a case of another name"):
        cohort.load_case(site, "p2")

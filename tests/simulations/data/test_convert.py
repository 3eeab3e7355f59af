"""OpenKBP's CSV files: known answers on four real patients; broken files are named and cost their patient alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.data.openkbp import read_openkbp
from shared_model.core.errors import InputError
from simulations.data.compact import block_sum, volume_keeping
from simulations.data.convert import SaidProgress, convert
from simulations.data.csv_patient import read_csv_patient
from simulations.data.datasets import hospitals, openkbp_root
from simulations.settings.commands import data_settings
from simulations.settings.convert import convert_settings
from simulations.settings.series import trial_overrides


def _quiet(done: int, total: int) -> None:
    pass


def _sparse(index: list[int], values: list[float] | None = None) -> str:
    cells = [""] * len(index) if values is None else [repr(value) for value in values]
    return ",data\n" + "".join(f"{i},{cell}\n" for i, cell in zip(index, cells, strict=True))


# A block of 4 x 4 x 4 voxels around the middle.
INDEX = [(60 + a) * 128 * 128 + (60 + b) * 128 + 60 + c for a in range(4) for b in range(4) for c in range(4)]


def write_patient(clone: Path, case_id: str, split: str = "train", **changes: str | None) -> Path:
    """A patient's folder with a target, an organ, CT and dose; ``changes`` replaces a file's text, None removes it."""
    folder = clone / "provided-data" / f"{split}-pats" / case_id
    folder.mkdir(parents=True)
    files: dict[str, str | None] = {
        "ct": _sparse(INDEX, [1000.0 + n for n in range(64)]),
        "dose": _sparse(INDEX, [70.0 + n / 50 for n in range(64)]),
        "possible_dose_mask": _sparse(INDEX),
        "PTV70": _sparse(INDEX[:20]),
        "SpinalCord": _sparse(INDEX[40:41]),
        "voxel_dimensions": "3.906e+00\n3.906e+00\n2.5e+00\n",
        **changes,
    }
    for name, text in files.items():
        if text is not None:
            (folder / f"{name}.csv").write_text(text)
    return folder


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Three patients, of whom one has no CT."""
    root = tmp_path / "clone"
    write_patient(root, "pt_1")
    write_patient(root, "pt_2", ct=None)
    write_patient(root, "pt_201", "validation")
    return root


def test_volumes_are_filled_in_c_order_and_halved(clone: Path, tmp_path: Path) -> None:
    convert(clone, tmp_path / "out", _quiet)
    with np.load(tmp_path / "out" / "full128" / "pt_1.npz") as full:
        dose = full["dose_cgy"]
        assert dose.shape == (128, 128, 128)
        assert (dose[60, 60, 60], dose[63, 63, 63]) == (7000, 7126)
        assert dose.sum() == 64 * 7000 + 2 * sum(range(64))
        assert full["ct"][60, 60, 63] == 1003
        assert full["vox_mm"].tolist() == pytest.approx([3.906, 3.906, 2.5])
    with np.load(tmp_path / "out" / "half64" / "pt_1.npz") as half:
        # Voxels 0, 1, 4, 5, 16, 17, 20, 21 of the block.
        assert half["ct"][30, 30, 30] == round(1000 + 84 / 8)
        assert half["dose_cgy"][30, 30, 30] == 7000 + 2 * 84 / 8
        assert half["pdm_cover"][30, 30, 30] == 8
        assert half["vox_mm"].tolist() == pytest.approx([7.812, 7.812, 5.0])
    case = read_openkbp(tmp_path / "out" / "half64" / "pt_1.npz", "pt_1")
    assert set(case.structures) == {"PTV_7000", "SpinalCord"}


def test_a_patient_without_ct_is_read_and_listed(clone: Path, tmp_path: Path) -> None:
    conversion = convert(clone, tmp_path / "out", _quiet)
    assert read_openkbp(tmp_path / "out" / "full128" / "pt_2.npz", "pt_2").ct_hu is None
    assert json.loads((tmp_path / "out" / "meta.json").read_text())["without_ct"] == ["pt_2"]
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["counts"]["train"] == {"expected": 200, "found": 2, "written": 2}
    assert "ct" in record["patients"]["pt_2"]["missing"]
    assert "3 of OpenKBP's 340 patients" in conversion.table()
    assert "train 198, validation 39, test 100 (fewer patients are fine)" in conversion.table()


def test_halves_against_slow_loops() -> None:
    rng = np.random.default_rng(0)
    cover = block_sum((rng.random((6, 8, 4)) < 0.3).astype(np.uint8))
    volume = rng.random((6, 8, 4))
    slow = [[[volume[2 * a : 2 * a + 2, 2 * b : 2 * b + 2, 2 * c : 2 * c + 2].sum() for c in range(2)]
             for b in range(4)] for a in range(3)]  # fmt: skip
    assert np.allclose(block_sum(volume), slow)
    kept = abs(8 * int(volume_keeping(cover).sum()) - int(cover.sum()))
    assert kept == min(abs(8 * int((cover >= least).sum()) - int(cover.sum())) for least in range(1, 9))
    lone = np.zeros((3, 4, 2), dtype=np.uint8)
    lone[1, 1, 1] = 1
    assert volume_keeping(lone).sum() == 1  # a mask with no voxel would be nearer
    assert not volume_keeping(np.zeros((3, 4, 2), dtype=np.uint8)).any()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dose": _sparse([INDEX[0], 128**3], [70, 1])}, "dose.csv, line 3: found 2097152; expected a whole index"),
        ({"dose": _sparse([-1], [70])}, "dose.csv, line 2: found -1; expected a whole index"),
        ({"PTV70": ",data\n1.5,\n"}, "PTV70.csv, line 2: found 1.5; expected a whole index"),
        ({"PTV70": _sparse([5, 7, 5])}, "PTV70.csv, line 4: found 5; expected each index once"),
        ({"dose": _sparse(INDEX[:2], [70, -1])}, "dose.csv, line 3: found -1; expected a dose in Gy of at least 0"),
        ({"dose": _sparse(INDEX[:2], [7000, 1])}, "is it in cGy?"),
        ({"dose": _sparse(INDEX[:2], [0.9, 0.7])}, "expected Gy, at least 10"),
        ({"dose": _sparse(INDEX[:2], [70, float("nan")])}, "dose.csv, line 3: found nan; expected a finite value"),
        ({"dose": _sparse([INDEX[0], 3], [70, 1])}, "expected an index inside possible_dose_mask.csv"),
        (
            {"dose": f",data\n{INDEX[0]},70\n{INDEX[1]},7x\n"},
            "dose.csv, line 3: found '990781,7x'; expected an index",
        ),
        ({"dose": f",data\n{INDEX[0]},70\n{INDEX[1]}\n5,6,7\n"}, "dose.csv, line 3"),
        ({"dose": ",data\n"}, "dose.csv: holds no voxel"),
        ({"dose": None}, "dose.csv: no such file"),
        ({"PTV70": ",data\n5,1.0\n"}, "PTV70.csv, line 2: found '5,1.0'; expected an index and a comma, as masks"),
        ({"PTV70": None}, "no target"),
        ({"ct": _sparse(INDEX[:2], [-1000, 40])}, "is it in HU?"),
        ({"voxel_dimensions": "0.39\n0.39\n0.25\n"}, "voxel_dimensions.csv: found 0.39 0.39 0.25; expected three"),
        ({"voxel_dimensions": "3.9\n3.9\n"}, "expected three voxel sizes in mm"),
        ({"voxel_dimensions": "a b c"}, "expected three voxel sizes in mm"),
        ({"possible_dose_mask": None}, "possible_dose_mask.csv: no such file"),
    ],
)
def test_a_broken_patient_is_named_and_left_out(
    clone: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    folder = write_patient(clone, "pt_3", **changes)
    with pytest.raises(InputError) as caught:
        read_csv_patient(folder)
    assert says in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    conversion = convert(clone, tmp_path / "out", _quiet)
    assert conversion.splits() == {"train": ["pt_1", "pt_2"], "validation": ["pt_201"], "test": []}
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["patients"]["pt_3"]["problem"] == str(
        caught.value
    )
    assert str(caught.value) in conversion.table()


def test_lines_may_end_as_windows_ends_them(clone: Path) -> None:
    folder = clone / "provided-data" / "train-pats" / "pt_1"
    before = read_csv_patient(folder)
    for path in folder.glob("*.csv"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    after = read_csv_patient(folder)
    assert np.array_equal(before.dose_gy, after.dose_gy)
    assert np.array_equal(before.masks, after.masks)


def test_a_stopped_conversion_goes_on_with_the_next_patient(clone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(clone, out, stop)
    assert not (out / "splits.json").exists()
    written = (out / "full128" / "pt_1.npz").stat().st_mtime_ns
    assert convert(clone, out, _quiet).read == 1
    assert (out / "full128" / "pt_1.npz").stat().st_mtime_ns == written
    assert convert(clone, out, _quiet).read == 0
    (clone / "provided-data" / "train-pats" / "pt_1" / "Larynx.csv").write_text(_sparse(INDEX[:2]))
    assert convert(clone, out, _quiet).read == 1
    (out / "half64" / "pt_2.npz").unlink()
    assert convert(clone, out, _quiet).read == 1


def test_folders_that_are_not_meant(clone: Path, tmp_path: Path) -> None:
    (tmp_path / "other" / "half64").mkdir(parents=True)
    with pytest.raises(InputError, match="holds something that no conversion wrote"):
        convert(clone, tmp_path / "other", _quiet)
    with pytest.raises(InputError, match="no patient found"):
        convert(tmp_path / "nowhere", tmp_path / "out", _quiet)
    write_patient(clone, "pt_1", "test")
    with pytest.raises(InputError, match="pt_1 also lies in"):
        convert(clone, tmp_path / "out", _quiet)
    for path in clone.rglob("dose.csv"):
        path.unlink()
    (clone / "provided-data" / "test-pats").rename(tmp_path / "aside")
    with pytest.raises(InputError, match="no patient of 3 can be read"):
        convert(clone, tmp_path / "out", _quiet)


def test_a_clone_is_data_root(clone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = {"data": {"kind": "openkbp", "root": str(clone), "cache": None}}
    data = data_settings(raw)
    (site,) = hospitals(data, "hospitals_4", tmp_path / "run", 0)
    assert site.root == tmp_path / "run" / "data" / "openkbp"
    assert (site.train, site.validation) == (("pt_1", "pt_2"), ("pt_201",))
    assert "3 of OpenKBP's 340 patients" in capsys.readouterr().err
    kept = data_settings({"data": {**raw["data"], "root": str(site.root)}})
    assert openkbp_root(kept, tmp_path / "elsewhere") == site.root
    assert trial_overrides(tmp_path, [f"data.root={clone}"])[0] == f"data.cache={tmp_path / 'data'}"
    assert convert_settings([f"data.root={clone}", "out=x"]).data.root == clone
    with pytest.raises(InputError, match="expected a clone"):
        convert_settings([f"data.root={site.root}", "out=x"])


def test_progress_says_what_is_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 1.0, 80.0, 81.0, 340.0])
    monkeypatch.setattr("simulations.data.convert.time.monotonic", lambda: next(clock))
    say: Callable[[int, int], None] = SaidProgress()
    for done in (20, 21, 100, 101, 340):
        say(done, 340)
    assert capsys.readouterr().err.splitlines() == [
        "OpenKBP: 100 of 340 patients converted, about 4 min 0 s left",
        "OpenKBP: 340 of 340 patients converted",
    ]


CSV = os.environ.get("FEDKT3D_OPENKBP_CSV")
FULL = os.environ.get("FEDKT3D_OPENKBP_FULL")


@pytest.mark.skipif(not CSV, reason="FEDKT3D_OPENKBP_CSV is not set to OpenKBP's CSV folders")
@pytest.mark.skipif(not FULL, reason="FEDKT3D_OPENKBP_FULL is not set to OpenKBP's 314 patients")
def test_real_patients_are_the_known_ones(tmp_path: Path) -> None:
    """Doses at half resolution differ by 0.01 Gy in a few blocks whose mean lies half-way between two values."""
    conversion = convert(Path(str(CSV)), tmp_path, _quiet)
    assert conversion.splits() == {"train": ["pt_51", "pt_143", "pt_170"], "validation": ["pt_203"], "test": []}
    for form in ("full128", "half64"):
        for case_id in conversion.written:
            with np.load(tmp_path / form / f"{case_id}.npz") as ours, np.load(f"{FULL}/{form}/{case_id}.npz") as known:
                assert set(ours.files) == set(known.files)
                for key in known.files:
                    assert ours[key].dtype == known[key].dtype
                    if (form, key) != ("half64", "dose_cgy"):
                        assert np.array_equal(ours[key], known[key]), (form, case_id, key)
                        continue
                    apart = np.abs(ours[key].astype(int) - known[key])
                    assert apart.max() <= 1
                    assert (apart > 0).sum() <= 0.02 * (known["pdm_cover"] > 0).sum()

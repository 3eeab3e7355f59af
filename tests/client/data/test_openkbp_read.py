"""OpenKBP reader: axes, units and names on a made-up file; physical plausibility on the real data set where it is."""

from __future__ import annotations

import contextlib
import io
import os
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.data.openkbp import read_openkbp, to_lps
from shared_model.core.errors import InputError

N = 8


def _arrays() -> dict[str, Any]:
    """A valid half-resolution file of 8^3 voxels; axes (y, x, -z)."""
    masks = np.zeros((10, N, N, N), dtype=bool)
    masks[9, 3:5, 3:5, 3:5] = True  # PTV70
    masks[7, 2, 3:5, 3:5] = True  # PTV56
    masks[3, 4, 6, 1] = True  # left parotid: to the left (high x), superior (low third index)
    cover = np.full((N, N, N), 8, dtype=np.uint8)
    cover[0] = 0
    dose = np.zeros((N, N, N), dtype=np.uint16)
    dose[5, 6, 1] = 7012
    ct = np.full((N, N, N), 1000, dtype=np.int16)
    ct[2, 1, 0] = 1700
    return {
        "ct": ct,
        "dose_cgy": dose,
        "pdm_cover": cover,
        "masks": np.packbits(masks.reshape(10, -1), axis=1),
        "vox_mm": np.array([4.0, 5.0, 6.0], dtype=np.float32),
    }


def _write(path: Path, drop: str = "", **changes: Any) -> Path:
    arrays = {**_arrays(), **changes}
    np.savez_compressed(path, **{key: value for key, value in arrays.items() if key != drop})
    return path


def test_axes_units_and_names(tmp_path: Path) -> None:
    case = read_openkbp(_write(tmp_path / "pt_1.npz"), "pt_1")
    assert case.grid.spacing_mm == (6.0, 4.0, 5.0)
    assert case.dose_gy is not None
    assert case.ct_hu is not None
    # (y, x, s) = (5, 6, 1) from the top -> z = 8 - 1 - 1.
    assert np.argwhere(case.dose_gy > 0).tolist() == [[6, 5, 6]]
    assert case.dose_gy[6, 5, 6] == pytest.approx(70.12)
    assert np.argwhere(case.ct_hu > 0).tolist() == [[7, 2, 1]]
    assert case.ct_hu[7, 2, 1] == 700
    assert not case.body[:, 0].any()
    assert case.body[:, 1:].all()
    assert np.argwhere(case.structures["Parotid_L"]).tolist() == [[6, 4, 6]]
    assert set(case.structures) == {"Parotid_L", "PTV_7000", "PTV_5600"}
    assert case.prescriptions_gy == {"PTV_7000": 70.0, "PTV_5600": 56.0}
    assert case.targets == ("PTV_7000", "PTV_5600")


def test_a_file_without_ct_is_a_case_without_ct(tmp_path: Path) -> None:
    whole = read_openkbp(_write(tmp_path / "a.npz"), "a")
    without = read_openkbp(_write(tmp_path / "b.npz", drop="ct"), "b")
    assert without.ct_hu is None
    assert without.grid == whole.grid
    assert whole.dose_gy is not None
    assert np.array_equal(without.dose_gy, whole.dose_gy)  # type: ignore[arg-type]


def test_packed_body_of_the_native_form(tmp_path: Path) -> None:
    arrays = _arrays()
    packed = np.packbits(arrays["pdm_cover"].ravel() > 0)
    half = read_openkbp(_write(tmp_path / "a.npz"), "a")
    native = read_openkbp(_write(tmp_path / "b.npz", drop="pdm_cover", pdm=packed), "b")
    assert np.array_equal(half.body, native.body)


@pytest.mark.parametrize(
    ("drop", "changes", "says"),
    [
        ("dose_cgy", {}, "missing array 'dose_cgy'"),
        ("pdm_cover", {}, "'pdm_cover'"),
        ("", {"masks": np.zeros((10, 80), dtype=np.uint8)}, "outside the grid"),
        ("", {"masks": np.zeros((9, 64), dtype=np.uint8)}, "9 structures"),
        ("", {"masks": np.zeros((10, 64), dtype=np.uint8)}, "no target"),
        ("", {"dose_cgy": np.full((N, N, N), -5, dtype=np.int16)}, "dose is negative"),
        ("", {"dose_cgy": np.zeros((N, N, 4), dtype=np.uint16)}, "'dose_cgy' (8, 8, 4)"),
        ("", {"ct": np.zeros((N, N, 4), dtype=np.int16)}, "'ct' has shape (8, 8, 4)"),
        ("", {"pdm_cover": np.zeros((N, N, N), dtype=np.uint8)}, "body mask is empty"),
        ("", {"vox_mm": np.array([1.0, 0.0, 1.0])}, "'vox_mm'"),
        ("", {"vox_mm": np.array([1.0, 1.0])}, "'vox_mm'"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path: Path, drop: str, changes: Any, says: str) -> None:
    path = _write(tmp_path / "pt_1.npz", drop, **changes)
    with pytest.raises(InputError) as caught:
        read_openkbp(path, "pt_1")
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_and_missing_files(tmp_path: Path) -> None:
    path = _write(tmp_path / "pt_1.npz")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="truncated"):
        read_openkbp(path, "pt_1")
    with pytest.raises(InputError, match="no such file"):
        read_openkbp(tmp_path / "pt_2.npz", "pt_2")


def test_to_lps_keeps_leading_axes() -> None:
    volume = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    moved = to_lps(volume)
    assert moved.shape == (2, 5, 3, 4)
    assert moved[1, 0, 2, 3] == volume[1, 2, 3, 4]


def _archive(header_of_ct: dict[str, Any], data: bytes) -> bytes:
    """An OpenKBP file whose CT claims any header."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, value in _arrays().items():
            member = io.BytesIO()
            if key == "ct":
                np.lib.format.write_array_header_1_0(member, header_of_ct)
                member.write(data)
            else:
                np.save(member, value)
            archive.writestr(f"{key}.npy", member.getvalue())
    return stream.getvalue()


@pytest.mark.parametrize("shape", [(10**6, 10**6, 10**6), (2000, 2000, 2000), (-1, 8, 8)])
def test_a_header_that_claims_more_than_a_patient_is_refused_before_memory_is_taken(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    path = tmp_path / "pt_1.npz"
    path.write_bytes(_archive({"descr": "<i2", "fortran_order": False, "shape": shape}, b""))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"pt_1\.npz"):
        read_openkbp(path, "pt_1")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ct": np.full((N, N, N), "soft tissue")}, "'ct'"),
        ({"ct": np.zeros((N, N, N), dtype=[("a", "i4")])}, "'ct'"),
        ({"ct": np.zeros((N, N, N), dtype="M8[s]")}, "'ct'"),
        ({"ct": np.full((N, N, N), 1j)}, "'ct'"),
        ({"dose_cgy": np.full((N, N, N), "x")}, "'dose_cgy'"),
        ({"pdm_cover": np.full((N, N, N), "x")}, "'pdm_cover'"),
        ({"vox_mm": np.array(["a", "b", "c"])}, "'vox_mm'"),
        ({"vox_mm": np.array([1e-30, 4, 5])}, "spacing"),
        ({"vox_mm": np.array([4000.0, 4000.0, 5000.0])}, "spacing"),
        ({"masks": np.zeros((10, 2, 64), dtype=np.uint8)}, "masks"),
        ({"masks": np.uint8(3)}, "masks"),
    ],
)
def test_arrays_of_another_kind(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    path = _write(tmp_path / "pt_1.npz", **changes)
    with pytest.raises(InputError) as caught:
        read_openkbp(path, "pt_1")
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


def test_voxels_that_fill_no_whole_byte(tmp_path: Path) -> None:
    volume = np.ones((5, 5, 5), dtype=np.uint16)
    masks = np.ones((10, 16), dtype=np.uint8)  # 125 bits and 3 to fill
    path = _write(tmp_path / "pt_1.npz", ct=volume, dose_cgy=volume, pdm_cover=volume, masks=masks)
    assert read_openkbp(path, "pt_1").grid.shape == (5, 5, 5)


def test_a_lone_npy_array_and_a_name_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "pt_1.npz"
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(InputError, match="npz archive"):
        read_openkbp(path, "pt_1")
    with pytest.raises(InputError, match="cannot be read"):
        read_openkbp(tmp_path / ("a" * 300), "pt_1")


def test_no_flipped_bit_escapes_as_another_error(tmp_path: Path) -> None:
    whole = _write(tmp_path / "pt_1.npz").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        for at in rng.integers(len(whole), size=3):
            content[at] ^= 1 << int(rng.integers(8))
        (tmp_path / "bad.npz").write_bytes(content)
        with contextlib.suppress(InputError):  # a bit that nobody reads does no harm
            read_openkbp(tmp_path / "bad.npz", "pt_1")


OPENKBP = os.environ.get("FEDKT3D_OPENKBP")
needs_openkbp = pytest.mark.skipif(not OPENKBP, reason="FEDKT3D_OPENKBP is not set to the compact OpenKBP data set")


@needs_openkbp
@pytest.mark.parametrize("patient", ["pt_2", "pt_24", "pt_150"])
def test_real_patients_lie_head_up_facing_forward(patient: str) -> None:
    assert OPENKBP is not None
    case = read_openkbp(Path(OPENKBP) / "half64" / f"{patient}.npz", patient)
    centre = {name: np.argwhere(mask).mean(axis=0) for name, mask in case.structures.items()}
    assert centre["Brainstem"][0] > centre["SpinalCord"][0]  # superior
    assert centre["Parotid_L"][2] > centre["Parotid_R"][2]  # to the left
    assert centre["SpinalCord"][1] > centre["PTV_7000"][1]  # posterior
    assert case.dose_gy is not None
    assert case.dose_gy[~case.body].max() == 0
    assert 65 < case.dose_gy[case.structures["PTV_7000"]].mean() < 76


@needs_openkbp
def test_dose_lies_in_the_beam_plate_at_the_angles_of_the_data_set() -> None:
    """The plate must explain real dose, and better with the true angles than rotated by half their spacing."""
    from client.data.openkbp import GANTRY_DEG
    from shared_model.patient.plates import beam_plate, target_centroid_mm

    assert OPENKBP is not None
    for patient in ("pt_24", "pt_95", "pt_144"):
        case = read_openkbp(Path(OPENKBP) / "half64" / f"{patient}.npz", patient)
        assert case.dose_gy is not None
        assert case.beam_plate is not None
        targets = case.ptv_gy() > 0
        tissue = case.body & ~targets
        in_plate = case.beam_plate > 0.05
        assert case.dose_gy[tissue & in_plate].mean() > 20 * case.dose_gy[tissue & ~in_plate].mean()
        centre = target_centroid_mm(case.structures["PTV_7000"], case.grid)
        rotated = beam_plate(targets, case.grid, centre, [angle + 20 for angle in GANTRY_DEG])
        upright = beam_plate(targets, case.grid, centre, GANTRY_DEG)
        spared = tissue & targets.any(axis=(1, 2))[:, None, None] & (upright < 0.6)
        match = [np.corrcoef(plate[spared], case.dose_gy[spared])[0, 1] for plate in (upright, rotated)]
        assert match[0] > match[1] + 0.05

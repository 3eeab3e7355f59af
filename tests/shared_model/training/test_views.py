import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from shared_model.channels.volumes import patient_channels
from shared_model.patient.geometry import Grid
from shared_model.training.views import WINDOW, View, seen_from
from tests.builders.small_case import small_case

PATIENT = patient_channels(small_case())


def test_a_plain_view_is_the_patient_padded() -> None:
    sight = seen_from(PATIENT, View())
    assert all(n % 8 == 0 for n in sight.stack.shape[:3])
    z, y, x = (slice(low, low + n) for low, n in zip(sight.low, PATIENT.stack.shape, strict=False))
    assert np.array_equal(sight.stack[z, y, x].numpy(), PATIENT.stack.astype(np.float32))
    assert float(sight.stack.abs().sum()) == pytest.approx(
        float(np.abs(PATIENT.stack.astype(np.float32)).sum()), rel=1e-4
    )
    assert sight.gantry_rad.tolist() == pytest.approx([math.radians(a) for a in PATIENT.gantry_deg])


def test_a_turn_by_ninety_degrees_takes_the_front_to_the_left() -> None:
    """Voxels are square in the slice, so such a turn only moves them."""
    dose = PATIENT.stack[..., -1].astype(np.float32)
    sight = seen_from(PATIENT, View(turn_deg=90.0))
    turned = torch.from_numpy(np.rot90(dose, -1, axes=(1, 2)).copy())
    centre = [float((turned.sum((a, b)) * torch.arange(n)).sum() / turned.sum()) for n, a, b in
              ((turned.shape[0], 1, 2), (turned.shape[1], 0, 2), (turned.shape[2], 0, 1))]  # fmt: skip
    found = sight.stack[..., -1]
    body = sight.stack[..., PATIENT.layout.index("body")]
    # Where the maximum lies relative to the middle of the body, before and after.
    assert float(found.sum()) == pytest.approx(float(turned.sum()), rel=0.03)
    low_y, low_x = (int((body.amax((0, o)) > 0.5).nonzero()[0]) for o in (2, 1))
    there = [float((found.sum((a, b)) * torch.arange(n)).sum() / found.sum()) for n, a, b in
             ((found.shape[1], 0, 2), (found.shape[2], 0, 1))]  # fmt: skip
    assert there[0] - low_y == pytest.approx(centre[1], abs=0.6)
    assert there[1] - low_x == pytest.approx(centre[2], abs=0.6)
    assert sight.gantry_rad[0].item() == pytest.approx(math.pi / 2)


def test_a_turned_beam_is_the_beam_at_the_turned_angle() -> None:
    """Of a round body with one round target, beam 1 after a turn by -40 degrees is beam 0 before."""
    z, y, x = np.meshgrid(np.arange(8), np.arange(24), np.arange(24), indexing="ij")
    disc = (y - 11.5) ** 2 + (x - 11.5) ** 2
    case = replace(
        small_case(),
        grid=Grid((8, 24, 24), (5.0, 5.0, 5.0)),
        body=disc <= 100,
        structures={"PTV_7000": disc <= 9},
        prescriptions_gy={"PTV_7000": 70.0},
        **dict.fromkeys(("ct_hu", "angle_plate"), None),
        beam_plate=np.zeros((8, 24, 24), dtype=np.float32),
        dose_gy=(disc <= 100).astype(np.float32) * z.astype(np.float32),
    )
    patient = patient_channels(case)
    sight = seen_from(patient, View(turn_deg=-40.0))
    assert sight.gantry_rad[1].item() == pytest.approx(0.0, abs=1e-6)
    layout, whole = patient.layout, seen_from(patient, View())
    first, second = layout.each_beam.start, layout.each_beam.start + 4
    before, after = whole.stack[..., first], sight.stack[..., second]
    assert after.shape == before.shape
    # Interpolated twice at 5 mm: alike, and unlike what it was.
    error = (after - before).abs().mean() / before.mean()
    assert error < 0.2
    assert (whole.stack[..., second] - before).abs().mean() / before.mean() > 3 * error


def test_a_coarser_grid_keeps_millimetres_and_dose() -> None:
    sight = seen_from(PATIENT, View(spacing=(1.1, 0.95)))
    assert sight.spacing_mm == pytest.approx((6.6, 4.75, 4.75))
    plain = seen_from(PATIENT, View())
    for name in ("dose", "depth"):
        place = PATIENT.layout.index(name)
        before = float(plain.stack[..., place].sum()) * math.prod(plain.spacing_mm)
        after = float(sight.stack[..., place].sum()) * math.prod(sight.spacing_mm)
        assert after == pytest.approx(before, rel=0.05)


def test_a_window_of_a_large_body_is_a_part_of_the_whole_view() -> None:
    long = replace(PATIENT, stack=np.concatenate([PATIENT.stack] * 5))
    whole = seen_from(long, View(shift=(0.25, 0.0, 0.0))).stack
    parts = [seen_from(long, View(shift=(0.25, 0.0, 0.0), window=(p, 0.5, 0.5))).stack for p in (0.0, 1.0)]
    assert whole.shape[0] > WINDOW[0]
    assert [part.shape[0] for part in parts] == [WINDOW[0]] * 2
    assert torch.allclose(parts[0], whole[: WINDOW[0]], atol=1e-5)
    assert torch.allclose(parts[1], whole[-WINDOW[0] :], atol=1e-5)


def test_a_view_never_leaves_the_patient_changed() -> None:
    before = PATIENT.stack.copy()
    seen_from(PATIENT, View(mirrored=True))
    seen_from(PATIENT, View(mirrored=True, turn_deg=5.0, shift=(0.2, 0.1, -0.3)))
    assert np.array_equal(PATIENT.stack, before)

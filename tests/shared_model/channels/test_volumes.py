from dataclasses import replace

import numpy as np
import pytest

from shared_model.channels.layout import BEAM, NAMES, ORGAN_ON_RAY, Layout
from shared_model.channels.volumes import EVEN_DEG, MOST_BEAMS, PatientChannels, nearness, patient_channels, thinned
from shared_model.diffusion.modalities import mirror
from shared_model.patient.case import CONDITIONS
from shared_model.training.views import View, seen_from
from tests.builders.small_case import small_case

PATIENT = patient_channels(small_case())


def _block(patient: PatientChannels, modality: str) -> np.ndarray:  # type: ignore[type-arg]
    return patient.stack[..., patient.layout.of(modality)].astype(np.float32)


def test_the_stack_is_the_bodys_box_and_zero_outside_the_body() -> None:
    case = small_case()
    assert PATIENT.stack.shape[-1] == PATIENT.layout.channels
    inside = case.body[PATIENT.slices]
    assert inside.any(axis=(1, 2)).all()
    assert inside.any(axis=(0, 1)).all()
    assert not PATIENT.stack[~inside].any()
    assert PATIENT.present == (*CONDITIONS, "dose")
    assert case.dose_gy is not None
    dose = PATIENT.stack[..., PATIENT.layout.index("dose")].astype(np.float32) * PATIENT.unit_gy
    assert np.allclose(dose[inside], case.dose_gy[PATIENT.slices][inside], atol=0.05)


def test_names_and_places_are_one_of_each() -> None:
    layout = Layout(beams=9)
    places = [layout.index(name) for names in NAMES.values() for name in names]
    beams = range(layout.each_beam.start, layout.each_beam.stop)
    assert sorted([*places, *beams, layout.index("dose")]) == list(range(layout.channels))
    swapped = layout.mirrored()
    assert [swapped[i] for i in swapped] == list(range(layout.channels))


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ({"ct_hu": None}, "ct"),
        ({"beam_plate": None}, "beam"),
        ({"angle_plate": None}, "angle"),
        ({"dose_gy": None}, "dose"),
    ],
)
def test_channels_vanish_with_their_modality(change: dict[str, None], gone: str) -> None:
    patient = patient_channels(small_case(**change))
    assert patient.present == tuple(m for m in (*CONDITIONS, "dose") if m != gone)
    if gone == "dose":
        assert not patient.stack[..., patient.layout.index("dose")].any()
    else:
        assert not _block(patient, gone).any()
    assert patient.gantry_deg == (() if gone == "beam" else EVEN_DEG)
    for other in CONDITIONS:
        if other != gone:
            assert np.array_equal(_block(patient, other), _block(PATIENT, other))


def test_without_organs_no_beam_knows_them() -> None:
    case = small_case()
    bare = replace(case, structures={n: m for n, m in case.structures.items() if n.startswith("PTV")})
    patient = patient_channels(bare)
    assert "oar" not in patient.present
    assert not _block(patient, "oar").any()
    beams = patient.stack[..., patient.layout.each_beam].reshape(-1, 9, len(BEAM))
    assert not beams[..., ORGAN_ON_RAY].any()
    assert beams[..., 0].any()


def test_without_targets_there_is_neither_prescription_nor_light() -> None:
    case = small_case()
    organs = {n: m for n, m in case.structures.items() if not n.startswith("PTV")}
    patient = patient_channels(replace(case, structures=organs, prescriptions_gy={}))
    assert "ptv" not in patient.present
    assert patient.unit_gy == 70.0
    assert patient.gantry_deg == ()
    assert not _block(patient, "beam")[..., 1:].any()


def test_any_number_of_beams_at_any_angles() -> None:
    patient = patient_channels(small_case(gantry_deg=(10.0, 200.0)))
    assert patient.gantry_deg == (10.0, 200.0)
    assert patient.layout.beams == 2
    assert _block(patient, "beam").any()


def test_the_channels_of_a_mirrored_case_are_the_mirrored_channels() -> None:
    mirrored = patient_channels(mirror(small_case()))
    view = seen_from(PATIENT, View(mirrored=True))
    z, y, x = (slice(low, low + n) for low, n in zip(view.low, mirrored.stack.shape, strict=False))
    found = view.stack[z, y, x].numpy()
    beams = mirrored.layout.each_beam
    assert np.allclose(found[..., : beams.start], mirrored.stack[..., : beams.start], atol=4e-3)
    # Beam k of the mirror image is the mirror image of the beam at minus its angle.
    theirs = found[..., beams].reshape(*found.shape[:3], 9, -1)[..., [(9 - k) % 9 for k in range(9)], :]
    assert np.allclose(theirs.reshape(*found.shape[:3], -1), mirrored.stack[..., beams], atol=0.02)
    assert np.allclose(found[..., -1], mirrored.stack[..., -1])


def test_nearness_tells_surface_far_and_deep() -> None:
    assert nearness(np.array([0.0, 1e9, -20.0]), 60.0, 20.0).tolist() == [1.0, 0.0, 2.0]


def test_each_direction_once_and_of_an_arc_a_few_all_round() -> None:
    assert thinned(()) == ()
    assert thinned((200.0, 10.0, 10.2, 370.0)) == (10.0, 200.0)
    assert thinned((359.8, 0.0)) == (0.0,)
    # An arc sampled finely stays an arc, not the one beam that its neighbours' small steps would leave.
    assert len(thinned([0.25 * k for k in range(1440)])) == MOST_BEAMS
    arc = thinned([181.0 + 2.0 * k for k in range(179)])
    assert len(arc) == MOST_BEAMS
    gaps = np.diff([*arc, arc[0] + 360.0])
    assert gaps.min() > 25
    assert gaps.max() < 35


def test_a_mirrored_case_has_mirrored_directions() -> None:
    turned = mirror(small_case(gantry_deg=(0.0, 40.0)))
    assert turned.gantry_deg == (0.0, 320.0)
    assert patient_channels(turned).gantry_deg == (0.0, 320.0)

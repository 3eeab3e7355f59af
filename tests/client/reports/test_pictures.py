"""The pictures show what they claim: orientation, scale in mm, the right curves, nothing over anything else."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.typing import NDArray

from client.reports import slices
from client.reports.patient import prediction_figure, site_figure, site_picture
from shared_model.core.errors import InputError
from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid

GRID = Grid((14, 24, 30), (9.0, 5.0, 4.0))  # as anisotropic as real studies


def ball(z_mm: float, y_mm: float, x_mm: float, radius_mm: float) -> NDArray[np.bool_]:
    z, y, x = np.meshgrid(*(GRID.centres_mm(axis) for axis in range(3)), indexing="ij")
    found: NDArray[np.bool_] = (z - z_mm) ** 2 + (y - y_mm) ** 2 + (x - x_mm) ** 2 <= radius_mm**2
    return found


def example() -> Case:
    """A target in the middle, the left parotid on the patient's left, the cord behind."""
    target, body = ball(60, 60, 60, 25), ball(60, 60, 60, 57)
    return Case(
        case_id="north-003",
        grid=GRID,
        body=body,
        structures={"PTV_7000": target, "Parotid_L": ball(70, 50, 95, 14), "SpinalCord": ball(60, 95, 60, 12)},
        prescriptions_gy={"PTV_7000": 70.0},
        ct_hu=np.where(body, 40.0, -1000.0).astype(np.float32),
        dose_gy=np.where(target, 70.0, np.where(body, 20.0, 0.0)).astype(np.float32),
    )


def where_drawn(case: Case, plane: slices.PageSlice, marked: NDArray[np.bool_]) -> tuple[float, float]:
    """Centre of the marked voxels on the page: 0..1 from the left, 0..1 from the bottom."""
    figure = Figure(figsize=(2, 2), dpi=100, facecolor="black")
    axes = figure.add_axes((0, 0, 1, 1))
    slices.draw_wash(axes, plane, marked.astype(float), marked.astype(float), cmap="gray", vmin=0, vmax=1)
    axes.set_xlim(plane.across_mm)
    axes.set_ylim(plane.up_mm)
    axes.set_axis_off()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    rows, columns = np.nonzero(np.asarray(canvas.buffer_rgba())[..., 0] > 128)
    return float(columns.mean()) / 200, 1 - float(rows.mean()) / 200


@pytest.mark.parametrize(
    ("name", "voxel", "right_of_page", "top_of_page"),
    [
        ("axial", (None, 3, 25), True, True),  # the patient's left is on the right, anterior on top
        ("coronal", (12, None, 25), True, True),  # superior on top
        ("sagittal", (12, 3, None), False, True),  # anterior on the left
        ("sagittal", (2, 20, None), True, False),
    ],
)
def test_orientation(
    name: str, voxel: tuple[int | None, int | None, int | None], right_of_page: bool, top_of_page: bool
) -> None:
    case = example()
    plane = next(plane for plane in slices.planes_through_target(case) if plane.name == name)
    marked = np.zeros(GRID.shape, dtype=bool)
    marked[tuple(plane.index if v is None else v for v in voxel)] = True
    x, y = where_drawn(case, plane, marked)
    assert (x > 0.6) if right_of_page else (x < 0.4)
    assert (y > 0.6) if top_of_page else (y < 0.4)


def test_letters_agree_with_the_orientation() -> None:
    letters = {plane.name: plane.letters for plane in slices.planes_through_target(example())}
    assert letters == {"axial": tuple("RLAP"), "coronal": tuple("RLSI"), "sagittal": tuple("APSI")}


def test_slices_pass_through_the_highest_target() -> None:
    case = example()
    low = ball(20, 20, 20, 12)
    two = replace(
        case,
        structures={"PTV_5600": low, **case.structures},
        prescriptions_gy={"PTV_5600": 56.0, "PTV_7000": 70.0},
    )
    centre = np.round(np.argwhere(case.structures["PTV_7000"]).mean(axis=0)).astype(int)
    assert [plane.index for plane in slices.planes_through_target(two)] == list(centre)


@pytest.mark.parametrize("y_mm", [25.0, 95.0])
def test_what_is_shown_holds_the_anatomy_with_a_margin(y_mm: float) -> None:
    target = ball(60, y_mm, 60, 12)
    case = replace(example(), structures={"PTV_7000": target}, dose_gy=np.where(target, 70, 0).astype(np.float32))
    for plane in slices.planes_through_target(case):
        x, y = where_drawn(case, plane, target)
        assert (x, y) == pytest.approx((0.5, 0.5), abs=0.12)
        assert plane.height_mm < 80
        assert plane.width_mm < 80


def test_outlines_lie_on_their_structure() -> None:
    case = example()
    plane = slices.planes_through_target(case)[0]
    axes = Figure().add_subplot()
    slices.draw_contours(axes, plane, case, {"SpinalCord": "red"})
    (outline,) = axes.collections
    points = np.concatenate([path.vertices for path in outline.get_paths()])
    depth_mm = GRID.shape[1] * GRID.spacing_mm[1]
    # Centre at y = 95 mm of voxel centres, half a voxel more from the corner, and counted upwards from posterior.
    middle = points.min(axis=0) / 2 + points.max(axis=0) / 2
    np.testing.assert_allclose(middle, [60 + 2.0, depth_mm - (95 + 2.5)], atol=2.6)


def panels(figure: Figure) -> list[Any]:
    return [axes for axes in figure.axes if axes.images]


def test_every_panel_has_the_same_scale_both_ways() -> None:
    figure = site_figure(example(), np.ones(GRID.shape), "north")
    width, height = figure.get_size_inches()
    assert len(panels(figure)) == 9
    scales = []
    for axes in panels(figure):
        box, (left, right), (bottom, top) = axes.get_position(), axes.get_xlim(), axes.get_ylim()
        assert right > left
        assert top > bottom
        scales += [box.width * width / (right - left), box.height * height / (top - bottom)]
    np.testing.assert_allclose(scales, scales[0], rtol=1e-6)


def dvh_lines(figure: Figure) -> list[Any]:
    (axes,) = (axes for axes in figure.axes if axes.get_ylabel() == "volume (%)")
    return list(axes.get_lines())


def test_dvh_reference_is_solid_and_prediction_dashed() -> None:
    figure = site_figure(example(), np.full(GRID.shape, 35.0), "north")
    target_reference, target_prediction = dvh_lines(figure)[:2]
    for line, gy, style in ((target_reference, 70.0, "-"), (target_prediction, 35.0, "--")):
        x, y = line.get_xdata(), line.get_ydata()
        np.testing.assert_allclose(y, np.where(x <= gy + 1e-4, 100.0, 0.0))
        assert line.get_linestyle() == style
    assert len(dvh_lines(figure)) == 2 * len(example().structures)
    assert len({(line.get_color(), line.get_marker()) for line in dvh_lines(figure)[::2]}) == 3


def all_structures() -> Case:
    case = example()
    organs = ("Brainstem", "SpinalCord", "Parotid_R", "Parotid_L", "Esophagus", "Larynx", "Bone_Mandible")
    levels = {"PTV_7000": 70.0, "PTV_6300": 63.0, "PTV_5600": 56.0}
    some = ball(60, 60, 60, 20)
    return replace(case, structures=dict.fromkeys((*organs, *levels), some), prescriptions_gy=levels)


def flat() -> Case:
    """A thin bar of tissue: the panels are flat, the histograms must not be."""
    case = example()
    cut = (slice(5, 8), slice(10, 14))
    return replace(
        case,
        grid=Grid((3, 4, 30), GRID.spacing_mm),
        body=case.body[cut],
        structures={name: mask[cut] for name, mask in case.structures.items()},
        ct_hu=None,
        dose_gy=None if case.dose_gy is None else case.dose_gy[cut],
    )


@pytest.mark.parametrize("case", [example(), all_structures(), flat()], ids=["example", "all", "flat"])
def test_nothing_overlaps_or_leaves_the_page(case: Case) -> None:
    figure = site_figure(case, np.zeros(case.grid.shape), "hospital_north · north-003 · federated")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [axes.get_window_extent() for axes in figure.axes]
    legends = [axes.get_legend() for axes in figure.axes if axes.get_legend() is not None]
    boxes += [legend.get_window_extent() for legend in legends]
    outside = [*figure.texts, *(axes.title for axes in figure.axes), *(axes.xaxis.label for axes in figure.axes)]
    boxes += [text.get_window_extent() for text in outside if text.get_text()]
    assert len(legends) == 1
    for one, other in itertools.combinations(boxes, 2):
        apart = one.x1 <= other.x0 or other.x1 <= one.x0 or one.y1 <= other.y0 or other.y1 <= one.y0
        assert apart, (one, other)
    page = figure.bbox
    assert all(page.x0 <= b.x0 and b.x1 <= page.x1 and page.y0 <= b.y0 and b.y1 <= page.y1 for b in boxes)
    dvh = dvh_lines(figure)[0].axes.get_window_extent()
    assert dvh.height >= 2.9 * figure.dpi


def test_site_picture_is_written_whole_and_repeats(tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "north.png"
    case = example()
    site_picture(path, case, np.ones(GRID.shape), "north")
    first = path.read_bytes()
    assert imread(path).shape[2] >= 3
    assert np.ptp(imread(path)[..., :3]) > 0.9
    assert case.case_id.encode() not in first  # only the caller's title names anyone
    site_picture(path, case, np.ones(GRID.shape), "north")
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == ["north.png"]


def test_bad_input_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "north.png"
    case = example()
    with pytest.raises(InputError, match="north-003: no reference dose"):
        site_picture(path, replace(case, dose_gy=None), np.ones(GRID.shape), "north")
    with pytest.raises(InputError, match="north-003: dose has shape"):
        site_picture(path, case, np.ones((2, 2, 2)), "north")
    with pytest.raises(InputError, match="not finite"):
        site_picture(path, case, np.full(GRID.shape, np.nan), "north")
    assert list(tmp_path.iterdir()) == []


def test_a_prediction_without_a_reference_shows_dose_alone() -> None:
    case = replace(example(), dose_gy=None)
    figure = prediction_figure(case, np.full(GRID.shape, 35.0), "north-003")
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["prediction", "dose-volume histograms"]
    assert any("PTV_7000/D95 35.0 Gy" in text.get_text() for text in figure.texts)
    dvh = next(axes for axes in figure.axes if axes.get_title() == "dose-volume histograms")
    assert len(dvh.get_lines()) == 3  # one curve a structure
    with_dose = prediction_figure(example(), np.full(GRID.shape, 35.0), "north-003")
    titles = [axes.get_title() for axes in with_dose.axes if axes.get_title()]
    assert titles[:3] == ["reference", "prediction", "prediction - reference"]
    with pytest.raises(InputError, match="shape"):
        prediction_figure(case, np.full(GRID.shape, 35.0)[1:], "north-003")

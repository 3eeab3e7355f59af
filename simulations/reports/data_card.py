"""A data card: what a folder of patients holds, as Markdown, JSON and pictures.

Of phantoms it has exact counts, ranges, and slices through one patient. Of real patients it has aggregates alone: no
slice, no extreme value, no count below ``LEAST``. Even so it is a statement about patients: a hospital decides whether
it hands one out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from client.data.case_files import load_case
from client.data.kinds import find_kind
from client.names.rules import NameRules
from client.reports.sheet import plain_axes, save_figure
from client.reports.slices import (
    draw_anatomy,
    draw_contours,
    draw_scale_bar,
    draw_wash,
    dress,
    planes_through_target,
)
from client.setup.check_patient import CheckedPatient
from client.setup.check_patients import Looked, Source, look
from client.site.config import DICOM, GDP
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_json, write_text
from shared_model.patient.anatomy import ORGANS, sites_of
from shared_model.patient.case import Case

Numbers = Mapping[str, Any]  # of one plan (client/setup/check_patient.py)

LEAST = 5  # patients behind any count of a card of real patients
_FEW = f"fewer than {LEAST}"
_DPI = 66  # a card is sent around: each picture stays below 150 kB
_PHANTOMS = "hospital.json"  # beside the case files of a phantom hospital (simulations/phantom/hospitals.py)
_CLONE = "provided-data"
_SPANS = {
    "slice_mm": "distance of slices (mm)",
    "pixel_mm": "larger pixel edge (mm)",
    "slices": "slices",
    "body_cc": "body (cm^3)",
    "targets_cc": "targets (cm^3)",
    "dose_max_gy": "largest dose (Gy)",
    "d95_percent": "D95 of a target (% of its prescription)",
}
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#999999")


def write_card(data: Path, out: Path, kind: str | None, names: Path | None, workers: int) -> list[Path]:
    """Write the card of the patients in ``data`` into the new folder ``out``; return its files.

    InputError where ``out`` holds something, ``data`` is no folder of a known kind, or no patient in it is usable.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: exists and is not empty; choose a new folder (nothing was changed)")
    if kind is None and (data / _CLONE).is_dir():
        raise InputError(f"{data}: OpenKBP as it is downloaded; convert it first: `simulate convert`")
    found = find_kind(data) if kind is None else kind
    looked = look(Source(kind=found, root=data, rules=NameRules.load(names)), None, workers)
    phantom = (data / _PHANTOMS).is_file()
    card = describe(looked, found, phantom=phantom)
    made = {"organs.png": bars(card["structures"], card["patients"], "structure", "patients that have it (%)")}
    made["prescriptions.png"] = bars(
        card["prescriptions_gy"], card["patients"], "Gy", "patients with such a target (%)"
    )
    if phantom:
        first = next(patient.patient for patient in looked.patients if patient.usable)
        made["slices.png"] = slices(load_case(data / f"{first}.npz"))
    for name, figure in made.items():
        save_figure(figure, out / name, _DPI)
    write_json(out / "card.json", card, ORDINARY)
    write_text(out / "card.md", markdown(card, tuple(made)), mode=ORDINARY)
    return [out / name for name in ("card.md", "card.json", *made)]


def describe(looked: Looked, kind: str, *, phantom: bool) -> dict[str, Any]:
    """Return the card's values; InputError where there is no usable patient, or of real ones fewer than ``LEAST``."""
    usable = [(_person(row, kind), row.numbers) for row in looked.patients if row.usable]
    rows = [numbers for _, numbers in usable]
    people = len({person for person, _ in usable})
    everybody = len({_person(row, kind) for row in looked.patients})
    least = 1 if phantom else LEAST
    if people < least:
        raise InputError(
            f"{people} of {everybody} patients are usable; a card needs at least {least}"
            f"{'' if phantom else ' real ones'}: `client check --data DIR` says what is wrong"
        )

    def count(values: Callable[[Numbers], Iterable[Any]]) -> Counter[Any]:
        """How many patients have each value: a patient's plans count once."""
        return Counter(value for _, value in {(who, value) for who, row in usable for value in values(row)})

    structures = count(lambda row: (name for name in row["structures"] if name in ORGANS))
    levels = count(lambda row: row["prescriptions_gy"].values())
    shapes = count(lambda row: ["x".join(map(str, row["shape"]))])
    order = [name for name in ORGANS if name in structures]
    numbers = {
        "slice_mm": [row["spacing_mm"][0] for row in rows],
        "pixel_mm": [max(row["spacing_mm"][1:]) for row in rows],
        "slices": [row["shape"][0] for row in rows],
        "body_cc": [row["body_cc"] for row in rows],
        "targets_cc": [row["targets_cc"] for row in rows],
        "dose_max_gy": [row["dose_max_gy"] for row in rows],
        "d95_percent": [100 * row["d95_gy"][t] / gy for row in rows for t, gy in row["prescriptions_gy"].items()],
    }
    return {
        "kind": kind,
        "phantom": phantom,
        "patients": people,
        "plans": len(rows),
        "not_usable": _shown(everybody - people, phantom=phantom),
        "body_sites": list(sites_of(tuple(order))),
        "with_beams": _shown(count(lambda row: [row["plates"]])[True], phantom=phantom),
        "shapes": _counts(shapes, phantom=phantom),
        "structures": _counts({name: structures[name] for name in order}, phantom=phantom),
        "prescriptions_gy": _counts({f"{gy:g}": levels[gy] for gy in sorted(levels)}, phantom=phantom),
        "quantiles": "0, 25, 50, 75, 100 %" if phantom else "25, 50, 75 %",
        "spans": {key: _quantiles(values, phantom=phantom) for key, values in numbers.items()},
    }


def _person(row: CheckedPatient, kind: str) -> str:
    """The patient of a row: of DICOM and of GDP-HMM, a row is one plan of several (client/setup/check.py)."""
    return row.patient.partition("_")[0] if kind in (DICOM, GDP) else row.patient


def _shown(count: int, *, phantom: bool) -> int | str:
    return count if phantom or count == 0 or count >= LEAST else _FEW


def _counts(found: Mapping[str, int], *, phantom: bool) -> dict[str, int | str]:
    """Counts by name. Of real patients a rare name is left out altogether: GDP-HMM has a hundred shapes of one each."""
    kept = {name: count for name, count in found.items() if phantom or count >= LEAST}
    rest = len(found) - len(kept)
    return {**kept, **({f"{rest} others": f"{_FEW} each"} if rest else {})}


def _quantiles(values: Sequence[float], *, phantom: bool) -> list[float]:
    at = [0, 25, 50, 75, 100] if phantom else [25, 50, 75]
    return [round(float(v), 2) for v in np.percentile(values, at)]


def bars(counts: Mapping[str, int | str], patients: int, what: str, label: str) -> Figure:
    """Horizontal bars of the counts in percent of the patients; what is hidden has no bar."""
    shown = {name: count for name, count in counts.items() if isinstance(count, int)}
    figure = Figure(figsize=(6.4, 1.2 + 0.3 * len(shown)), layout="constrained")
    axes = figure.subplots()
    plain_axes(axes, label, what)
    axes.barh(list(shown), [100 * count / patients for count in shown.values()], color=_COLOURS[1])
    axes.set_xlim(0, 100)
    axes.invert_yaxis()
    return figure


def slices(case: Case) -> Figure:
    """Axial, coronal and sagittal slice of a phantom: CT with structures above, its dose below.

    InputError where it has no dose.
    """
    if case.dose_gy is None:
        raise InputError(f"picture of case {case.case_id}: no dose")
    planes = planes_through_target(case)
    drawn = [*case.targets, *(name for name in case.structures if name not in case.targets)]
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(drawn)}
    figure = Figure(figsize=(9.6, 5.8), layout="constrained")
    panels = figure.subplots(2, len(planes))
    top = float(case.dose_gy.max())
    for column, plane in enumerate(planes):
        for row in range(2):
            axes = panels[row][column]
            draw_anatomy(axes, plane, case)
            if row:
                wash = np.clip(case.dose_gy / (0.3 * top), 0, 1) * 0.75
                image = draw_wash(axes, plane, case.dose_gy, wash, cmap="turbo", vmin=0.0, vmax=top)
            else:
                draw_contours(axes, plane, case, colours)
            dress(axes, plane, plane.width_mm)
            axes.set_aspect("equal")
        draw_scale_bar(panels[0][column])
    figure.colorbar(image, ax=panels[1].tolist(), label="Gy", shrink=0.8)
    handles = [axes.plot([], [], color=colour, label=name)[0] for name, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return figure


def markdown(card: Mapping[str, Any], pictures: Sequence[str]) -> str:
    """The card as a page."""
    who = "phantom" if card["phantom"] else "real"
    part = ", ".join(card["body_sites"]) or "no known site of the body"
    lines = [
        f"# Data card: {card['patients']} {who} patients, {part}",
        "",
        f"Kind `{card['kind']}`, {card['plans']} usable plans. Not usable: {card['not_usable']} patients."
        f" With beam plates: {card['with_beams']}.",
    ]
    if not card["phantom"]:
        lines += ["", f"Aggregates alone: no slice of a patient, no extreme value, no count below {LEAST}."]
    headings = {"structures": "structure", "prescriptions_gy": "prescription (Gy)", "shapes": "grid (z, y, x)"}
    for key, heading in headings.items():
        lines += ["", f"| {heading} | patients |", "|---|---:|"]
        lines += [f"| {name} | {count} |" for name, count in card[key].items()]
    ends = card["quantiles"].removesuffix(" %").split(", ")
    lines += ["", f"| quantile | {' | '.join(f'{end} %' for end in ends)} |", f"|---|{'---:|' * len(ends)}"]
    lines += [f"| {_SPANS[key]} | {' | '.join(f'{v:g}' for v in values)} |" for key, values in card["spans"].items()]
    lines += ["", *(f"![{name.removesuffix('.png')}]({name})" for name in pictures)]
    return "\n".join(lines) + "\n"

"""Plans and targets of any form: no patient is read below the plan's highest level, whatever is drawn or named.

Hypothesis writes plans by a grammar of what systems export: levels with and without a structure's number, names plain,
ranked, derived or strange, structures empty or damaged. The rule is checked without the code that decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from client.names.records import Prescription, Roi
from client.names.rules import NameRules
from client.names.table import name_table
from client.names.targets import lost_targets
from shared_model.patient.anatomy import is_target

LEVELS = (70.0, 66.0, 63.0, 60.0, 56.0, 54.0, 50.4)
# How a target of a level may be called; {cgy} and {gy} are the level.
FORMS = (
    "PTV_{cgy}", "PTV{gy}", "PTV {gy} Gy", "ptv-{gy}", "zPTV{gy}", "PTV{gy}_old", "PTV{gy} cropped", "PTV_{gy}-3mm",
    "PTVopt{gy}", "PTV{gy}-Parotid_L", "CTV{gy}", "PTV High", "PTV Low", "PTV", "PTV2024", "Boost", "PTV{gy}外", "x",
)  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """One structure: the level that it is meant for, its name's form, and whether it can be used."""

    level: float
    form: str
    kind: str
    empty: bool
    damaged: bool
    numbered: bool

    @property
    def name(self) -> str:
        return self.form.format(cgy=f"{round(100 * self.level):04d}", gy=f"{self.level:g}")


STRUCTURES = st.lists(
    st.builds(
        Drawn,
        level=st.sampled_from(LEVELS),
        form=st.sampled_from(FORMS),
        kind=st.sampled_from(("PTV", "", "ORGAN", "CTV")),
        empty=st.booleans(),
        damaged=st.integers(0, 4).map(lambda n: n == 0),
        numbered=st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=300, deadline=None)
@given(STRUCTURES, st.lists(st.sampled_from(LEVELS), max_size=2))
@example(
    [Drawn(70.0, "PTV_{cgy}", "PTV", False, True, False), Drawn(56.0, "PTV_{cgy}", "PTV", False, False, False)], []
)
def test_no_patient_is_read_below_the_plans_highest_level(drawn: list[Drawn], others: list[float]) -> None:
    points = np.zeros((3, 3))
    rois = [
        Roi(
            number=n,
            name=d.name,
            kind=d.kind,
            points_mm=points,
            counts=np.array([] if d.empty else [3], dtype=np.int64),
        )
        for n, d in enumerate(drawn, 1)
    ]
    plan = [Prescription(dose_gy=d.level, roi=n if d.numbered else None) for n, d in enumerate(drawn, 1)]
    plan += [Prescription(dose_gy=level, roi=None) for level in others]
    faults = {n: "damaged; draw it anew" for n, d in enumerate(drawn, 1) if d.damaged and not d.empty}
    rows = name_table(rois, plan, NameRules())
    lost, _ = lost_targets(rows, plan, faults, {n for n, d in enumerate(drawn, 1) if not d.empty})
    sound = [
        row
        for row in rows
        if row.used and is_target(row.tg263) and not drawn[row.number - 1].empty and row.number not in faults
    ]
    assert len({row.tg263 for row in sound}) == len(sound)  # one level, one structure
    for row in sound:
        meant = drawn[row.number - 1]
        assert row.prescription_gy is not None
        if meant.numbered:
            assert row.prescription_gy == meant.level
    if not lost:
        assert max((row.prescription_gy or 0.0 for row in sound), default=0.0) >= max(p.dose_gy for p in plan) - 0.05
    if any(d.numbered and d.name.lower().startswith("ptv") and (d.empty or d.damaged) for d in drawn):
        assert lost  # what the plan prescribes to, whatever its level

"""The trade of coverage against organs: known doses, the front, and the picture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from client.reports.front import Trade, front, front_png, trades
from shared_model.core.errors import InputError
from tests.builders.small_study import ellipsoid_case


def test_trades_of_known_doses() -> None:
    case = ellipsoid_case()
    flat = torch.full((2, *case.grid.shape), 35.0)
    target = torch.from_numpy(case.structures["PTV_7000"])
    flat[1, target] = 70.0
    first, second = trades(case, flat)
    assert first == Trade(coverage=50.0, organs_gy=35.0)
    assert second.coverage == pytest.approx(100.0)
    assert second.organs_gy >= 35.0
    bare = replace(case, structures={"PTV_7000": case.structures["PTV_7000"]})
    with pytest.raises(InputError, match="no organ"):
        trades(bare, flat)


def test_the_front_joins_those_that_no_other_beats() -> None:
    best, worse, costly, covered = (
        Trade(coverage=c, organs_gy=o) for c, o in ((95.0, 20.0), (94.0, 21.0), (95.0, 25.0), (99.0, 26.0))
    )
    assert front([covered, costly, worse, best]) == [best, covered]
    assert front([]) == []


def test_the_picture_is_a_png_with_each_named_dose() -> None:
    drawn = [Trade(coverage=90.0 + n, organs_gy=20.0 + n) for n in range(5)]
    names = ("reference", "shared", "aligned", "steered", "best")
    picture = front_png(drawn, [50.0, 60.0, 55.0, 70.0, 65.0], {name: drawn[0] for name in names})
    assert picture.startswith(b"\x89PNG")
    assert picture != front_png(drawn, [50.0, 60.0, 55.0, 70.0, 65.0], {"shared": drawn[0]})

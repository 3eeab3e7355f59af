"""The demo's table says what the summary says, and refuses a run that compares nothing."""

from __future__ import annotations

from typing import Any

import pytest

from shared_model.core.errors import InputError
from simulations.reports.alone_or_together import gain_table


def summary() -> dict[str, Any]:
    together = {"dose_score_gy": 3.0, "per_site": {"north": _site(2.5), "south": _site(3.5)}}
    alone = {
        "dose_score_gy": 4.0,
        "per_site": {"north": _site(4.5), "south": _site(3.25)},
        "everywhere": {
            "dose_score_gy": 6.0,
            "per_model": {"north": {"dose_score_gy": 5.75}, "south": {"dose_score_gy": 6.25}},
        },
    }
    return {"studies": {"federated": together, "local": alone}}


def _site(score: float) -> dict[str, float]:
    return {"dose_score_gy": score, "patients": 2}


def test_each_hospital_has_its_own_scores_and_those_on_everybodys_patients() -> None:
    rows = [line.split() for line in gain_table(summary()).splitlines()]
    assert rows[-3:] == [
        ["north", "4.50", "2.50", "5.75", "3.00"],
        ["south", "3.25", "3.50", "6.25", "3.00"],
        ["mean", "4.00", "3.00", "6.00", "3.00"],
    ]
    assert "on 4 patients" in gain_table(summary())


@pytest.mark.parametrize("study", ["federated", "local"])
def test_a_run_of_one_study_is_refused_with_the_command_to_give(study: str) -> None:
    lacking = summary()
    del lacking["studies"][study]
    with pytest.raises(InputError, match=r"study=\[federated,local\]"):
        gain_table(lacking)

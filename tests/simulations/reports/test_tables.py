"""The tables say what the summary says, and a bad summary is refused by the key's name."""

from __future__ import annotations

import copy
import csv
import io
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from shared_model.core.errors import InputError
from simulations.reports import tables


def scores(base: float) -> dict[str, float]:
    return {
        "dose_score_gy": base,
        "dvh_score_gy": base + 0.1,
        "mae_ref5_gy": base + 0.2,
        "mae_gdp_gy": base + 0.3,
    }


def study(base: float) -> dict[str, Any]:
    sites = {"north": scores(base - 1) | {"patients": 5.0}, "south": scores(base + 1) | {"patients": 7}}
    return scores(base) | {"per_site": sites}


def summary(seed: int = 0, shift: float = 0.0) -> dict[str, Any]:
    return {
        "seed": seed,
        "wall_s": 12.5,
        "sites": ["north", "south"],
        "rounds": 3,
        "wire_bytes_per_round": 1024,
        "privacy": {"mode": "none"},
        "studies": {"federated": study(9.0 + shift), "local": study(11.0 + shift)},
    }


def every_key(where: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in where.items():
        found.append((*path, key))
        if isinstance(value, dict):
            found += every_key(value, (*path, key))
    return found


# Studies and sites are free names; every other key is required.
REQUIRED = [p for p in every_key(summary()) if p[-1] not in ("federated", "local", "north", "south")]


@pytest.mark.parametrize("path", REQUIRED, ids=".".join)
@pytest.mark.parametrize("bad", ["missing", None, float("nan"), float("inf"), -1, {}])
def test_every_required_key_is_checked_by_name(path: tuple[str, ...], bad: object) -> None:
    broken = summary()
    where = broken
    for key in path[:-1]:
        where = where[key]
    if bad == "missing":
        del where[path[-1]]
    else:
        where[path[-1]] = bad
    with pytest.raises(InputError, match="key '" + r"\.".join(path)) as caught:
        tables.validate_summary(broken)
    assert "\n" not in str(caught.value)


def test_extra_keys_are_welcome() -> None:
    more = summary() | {"config_sha256": "abc"}
    more["studies"]["federated"]["cpu_s"] = 3.0
    tables.validate_summary(more)


def test_markdown_table() -> None:
    lines = tables.metrics_table(summary()).splitlines()
    assert lines[0] == (
        "| study | site | patients | dose score (Gy) | DVH score (Gy) | MAE ref ≥ 5 Gy (Gy) | MAE GDP (Gy) |"
    )
    assert lines[1] == "|---|---|---:|---:|---:|---:|---:|"
    assert lines[2] == "| federated | north | 5 | 8.00 | 8.10 | 8.20 | 8.30 |"
    assert lines[4] == "| **federated** | **all** | **12** | **9.00** | **9.10** | **9.20** | **9.30** |"
    assert [line.split("|")[1].strip(" *") for line in lines[2:]] == ["federated"] * 3 + ["local"] * 3


def test_csv_holds_the_same_rows() -> None:
    rows = list(csv.DictReader(io.StringIO(tables.metrics_csv(summary()))))
    assert [(row["study"], row["site"]) for row in rows] == [
        (name, site) for name in ("federated", "local") for site in ("north", "south", "all")
    ]
    assert rows[1] == {
        "study": "federated",
        "site": "south",
        "patients": "7",
        "dose_score_gy": "10.000000",
        "dvh_score_gy": "10.100000",
        "mae_ref5_gy": "10.200000",
        "mae_gdp_gy": "10.300000",
    }


def test_mean_and_sd_over_seeds() -> None:
    shifts = [0.0, 0.5, 1.3]
    runs = [summary(seed, shift) for seed, shift in enumerate(shifts)]
    text = tables.mean_sd_table(runs)
    assert "seeds 0, 1, 2" in text
    mean, sd = statistics.mean(8.0 + s for s in shifts), statistics.stdev(shifts)
    assert f"| federated | north | 5 | {mean:.2f} ± {sd:.2f} |" in text
    row = next(csv.DictReader(io.StringIO(tables.mean_sd_csv(runs))))
    assert row["seeds"] == "3"
    assert float(row["dose_score_gy_mean"]) == pytest.approx(mean, abs=1e-6)
    assert float(row["dose_score_gy_sd"]) == pytest.approx(sd, abs=1e-6)


def test_one_seed_has_no_sd() -> None:
    assert "±" not in tables.mean_sd_table([summary()]).splitlines()[4]
    assert next(csv.DictReader(io.StringIO(tables.mean_sd_csv([summary()]))))["mae_gdp_gy_sd"] == ""


def test_runs_that_do_not_compare_are_refused() -> None:
    other = summary(seed=1)
    del other["studies"]["local"]["per_site"]["south"]
    with pytest.raises(InputError, match="seed 1 has other studies"):
        tables.mean_sd_table([summary(), other])
    with pytest.raises(InputError, match="a seed occurs twice"):
        tables.mean_sd_table([summary(), summary()])
    with pytest.raises(InputError, match="no summary"):
        tables.mean_sd_table([])


def test_summary_goes_to_disk_and_back(tmp_path: Path) -> None:
    path = tmp_path / "run" / "summary.json"
    tables.write_summary(path, summary())
    assert tables.read_summary(path) == summary()
    assert [p.name for p in path.parent.iterdir()] == ["summary.json"]


def test_a_bad_summary_writes_nothing_over(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    tables.write_summary(path, summary())
    before = path.read_bytes()
    broken = copy.deepcopy(summary())
    del broken["privacy"]
    with pytest.raises(InputError, match="'privacy' is missing"):
        tables.write_summary(path, broken)
    with pytest.raises(InputError, match="not finite"):
        tables.write_summary(path, summary() | {"extra": float("inf")})
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(InputError, match="taken: cannot be written"):
        tables.write_summary(taken, summary())
    taken.rmdir()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"seed": 0})])
def test_a_bad_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "summary.json"
    with pytest.raises(InputError, match=r"summary\.json: no such file"):
        tables.read_summary(path)
    path.write_text(content)
    with pytest.raises(InputError, match=r"summary\.json: "):
        tables.read_summary(path)

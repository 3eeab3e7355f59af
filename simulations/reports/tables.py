"""The results of a run: summary.json (its one definition) and the tables made from it.

``summary.json``::

    {"seed": 0, "wall_s": 1234.5, "sites": ["hospital_a", ...], "rounds": 20, "wire_bytes_per_round": 8388608,
     "privacy": {"mode": "none", ...},
     "studies": {"federated": {"dose_score_gy", "dvh_score_gy", "mae_ref5_gy", "mae_gdp_gy",
                               "per_site": {"hospital_a": {the same four, "patients"}, ...}}, ...}}

More keys may stand anywhere; these must. The four metrics are in Gy (shared_model/scoring/dosimetry.py), lower is
better.
"""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shared_model.core import files
from shared_model.core.errors import InputError
from shared_model.scoring.dosimetry import SCORE_KEYS

HEADINGS = ("dose score (Gy)", "DVH score (Gy)", "MAE ref ≥ 5 Gy (Gy)", "MAE GDP (Gy)")
OVERALL = "all"

Summary = Mapping[str, Any]
Row = tuple[str, str, int, tuple[float, ...]]


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _patients(value: object) -> bool:
    return _number(value) and float(str(value)).is_integer()


def _names(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(v, str) for v in value)


def _table(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_filled(value: object) -> bool:
    return isinstance(value, Mapping) and len(value) > 0


def _require(where: Summary, path: str, key: str, good: Callable[[object], bool], expected: str) -> Any:
    full = f"{path}.{key}" if path else key
    if key not in where:
        raise InputError(f"summary: key {full!r} is missing; expected {expected}")
    if not good(where[key]):
        raise InputError(f"summary: key {full!r} is {where[key]!r}; expected {expected}")
    return where[key]


def _require_scores(where: Summary, path: str) -> None:
    for key in SCORE_KEYS:
        _require(where, path, key, _number, "a finite number of Gy, at least 0")


def validate_summary(summary: Summary) -> None:
    """Raises InputError naming the first key that is missing or wrong, as a dotted path; extra keys are welcome."""
    _require(summary, "", "seed", _count, "a whole number")
    _require(summary, "", "wall_s", _number, "a number of seconds")
    _require(summary, "", "sites", _names, "a list of site names")
    _require(summary, "", "rounds", _count, "a whole number")
    _require(summary, "", "wire_bytes_per_round", _number, "a number of bytes")
    privacy = _require(summary, "", "privacy", _table, "a table with the key 'mode'")
    _require(privacy, "privacy", "mode", lambda v: isinstance(v, str), "the name of a privacy mode")
    studies = _require(summary, "", "studies", _is_filled, "at least one study")
    for study in studies:
        path = f"studies.{study}"
        scores = _require(studies, "studies", study, _table, "a table of scores")
        _require_scores(scores, path)
        per_site = _require(scores, path, "per_site", _is_filled, "a table of scores by site")
        for site in per_site:
            site_path = f"{path}.per_site.{site}"
            site_scores = _require(per_site, f"{path}.per_site", site, _table, "a table of scores")
            _require_scores(site_scores, site_path)
            _require(site_scores, site_path, "patients", _patients, "a whole number of patients")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file of a run, whole or not at all; InputError where a number is not finite or the disk is full."""
    files.write_json(path, content, files.ORDINARY, indent=2)


def write_summary(path: Path, summary: Summary) -> None:
    """Validates, then writes ``summary.json`` atomically; an invalid summary leaves the old file as it was."""
    validate_summary(summary)
    write_json(path, summary)


def read_summary(path: Path) -> dict[str, Any]:
    """Reads and validates a ``summary.json``. Raises InputError naming the file."""
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected the summary.json of a finished run") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON; expected the summary.json of a finished run") from error
    if not isinstance(summary, dict):
        raise InputError(f"{path}: a JSON {type(summary).__name__}; expected the summary.json of a finished run")
    try:
        validate_summary(summary)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return summary


def _rows(summary: Summary) -> list[Row]:
    """One row per study and site, and per study the overall scores with all patients; in the summary's order."""
    validate_summary(summary)
    rows: list[Row] = []
    for study, scores in summary["studies"].items():
        sites = scores["per_site"]
        for site, values in sites.items():
            rows.append((study, site, int(values["patients"]), tuple(float(values[key]) for key in SCORE_KEYS)))
        total = sum(int(values["patients"]) for values in sites.values())
        rows.append((study, OVERALL, total, tuple(float(scores[key]) for key in SCORE_KEYS)))
    return rows


def _markdown(rows: Iterable[tuple[str, str, int, Sequence[str]]]) -> str:
    lines = ["| study | site | patients | " + " | ".join(HEADINGS) + " |", "|---|---|---:|" + "---:|" * len(HEADINGS)]
    for study, site, patients, cells in rows:
        texts = [study, site, str(patients), *cells]
        # The overall row is what readers compare: bold.
        lines.append("| " + " | ".join(f"**{text}**" if site == OVERALL else text for text in texts) + " |")
    return "\n".join(lines) + "\n"


def metrics_table(summary: Summary) -> str:
    """Markdown: studies x sites and overall (``all``), four metrics in Gy with two decimals. InputError as above."""
    return _markdown((*row[:3], [f"{value:.2f}" for value in row[3]]) for row in _rows(summary))


def metrics_csv(summary: Summary) -> str:
    """CSV of the same rows, six decimals; columns study, site, patients and ``SCORE_KEYS``."""
    lines = ((*row[:3], *(f"{value:.6f}" for value in row[3])) for row in _rows(summary))
    return _csv(("study", "site", "patients", *SCORE_KEYS), lines)


def _csv(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()


def _by_seed(summaries: Sequence[Summary]) -> list[tuple[Row, list[list[float]]]]:
    """Each row of the first summary with its four metrics' values over the seeds."""
    if not summaries:
        raise InputError("mean and sd: no summary given; expected one per seed")
    tables = [_rows(summary) for summary in summaries]
    seeds = [summary["seed"] for summary in summaries]
    if len(set(seeds)) < len(seeds):
        raise InputError(f"mean and sd: a seed occurs twice in {seeds}; expected runs of different seeds")
    for seed, table in zip(seeds, tables, strict=True):
        if [row[:3] for row in table] != [row[:3] for row in tables[0]]:
            raise InputError(
                f"mean and sd: seed {seed} has other studies, sites or patients than seed {seeds[0]}; expected the same"
            )
    return [(rows[0], [[row[3][k] for row in rows] for k in range(4)]) for rows in zip(*tables, strict=True)]


def _sd(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else math.nan


def mean_sd_table(summaries: Sequence[Summary]) -> str:
    """Markdown: mean ± sample standard deviation (n - 1) over the summaries' seeds; no ± for a single seed.

    Raises InputError if a seed occurs twice or the summaries do not have the same studies, sites and patients.
    """
    rows = []
    for row, columns in _by_seed(summaries):
        sds = ["" if len(values) < 2 else f" ± {_sd(values):.2f}" for values in columns]
        cells = [f"{statistics.fmean(values):.2f}{sd}" for values, sd in zip(columns, sds, strict=True)]
        rows.append((*row[:3], cells))
    seeds = ", ".join(str(summary["seed"]) for summary in summaries)
    modes = ", ".join(sorted({str(summary["privacy"]["mode"]) for summary in summaries}))
    return f"Mean ± standard deviation over seeds {seeds}; privacy mode {modes}.\n\n" + _markdown(rows)


def mean_sd_csv(summaries: Sequence[Summary]) -> str:
    """CSV of ``mean_sd_table``: columns ``<metric>_mean`` and ``<metric>_sd`` (empty for one seed), and ``seeds``."""
    header = ["study", "site", "patients", "seeds"]
    header += [f"{key}_{what}" for key in SCORE_KEYS for what in ("mean", "sd")]
    lines = []
    for row, columns in _by_seed(summaries):
        cells = [(f"{statistics.fmean(v):.6f}", f"{_sd(v):.6f}" if len(v) > 1 else "") for v in columns]
        lines.append([*row[:3], len(summaries), *(text for pair in cells for text in pair)])
    return _csv(header, lines)

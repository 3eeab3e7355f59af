"""An adapter's model card: what it was trained on, by whom and with which privacy. One JSON file beside the weights.

The adapter's own file depends only on its numbers (shared_model/adapter/manifest.py). Two trainings may give the same
numbers on different dates, for example, so everything else is in the card. ``adapter.sha256`` ties the card to the
adapter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared_model.backbone.prior import normalisation, prior_hash
from shared_model.core.software import versions
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import MODALITIES

SCHEMA = 1

STATEMENTS: Mapping[str, str] = {
    "central": (
        "Trained in one place on patients who were pooled there: no federation, no differential privacy. The adapter"
        " may reveal whether a patient took part in its training."
    ),
    "masked": (
        "No differential privacy. Under secure aggregation the coordinator saw sums over the sites of this run, and no"
        " site's update, loss or score. A sum is not patient privacy: sums and adapter may reveal whether a patient"
        " took part in the training."
    ),
    "none": (
        "No differential privacy and no secure aggregation: the coordinator saw every site's update, and the adapter"
        " may reveal whether a patient took part in its training."
    ),
    "shared": (
        "(epsilon, delta)-differential privacy, add/remove one patient within a site, for this adapter over the whole"
        " training of this run; epsilon with at most the named number of colluding sites, and a second epsilon if all"
        " others collude; computational. The search for hyper-parameters, the declared numbers of patients, and a"
        " patient at two sites are not covered."
    ),
    "local": (
        "(epsilon, delta)-differential privacy, add/remove one patient within a site, for everything that a site sent"
        " in this training, towards everyone; computational. The search for hyper-parameters, the declared numbers of"
        " patients, and a patient at two sites are not covered."
    ),
    "site": (
        "(epsilon, delta)-differential privacy, add/remove one hospital, for this adapter over the whole training of"
        " this run; epsilon with at most the named number of colluding sites, and a second epsilon if all others"
        " collude; computational. The search for hyper-parameters is not covered."
    ),
}

_WITHOUT_NOISE = ("central", "masked", "none")


def adapter_card(
    spec: ModelSpec, adapter: Mapping[str, Any], report: Mapping[str, Any], metrics: Mapping[str, float], date: str
) -> dict[str, Any]:
    """Make the model card of a finished run.

    ``adapter``: sha256 of the vector, file_sha256, numbers and manifest. ``report``: from the run's report
    (server/app.py), name, seed, rounds, sites (site name -> number of training patients), privacy, and public and
    start if it has them. ``metrics``: those of the last evaluation, averaged over patients. ``date``: ISO 8601,
    UTC.
    """
    privacy = dict(report["privacy"])
    told = {key: report[key] for key in ("name", "seed", "rounds", "public", "start") if key in report}
    statement = STATEMENTS[str(privacy["mode"])]
    if privacy["mode"] not in _WITHOUT_NOISE and "start" in report:
        statement += " " + _describe_uncovered(report["start"])
    return {
        **told,
        "schema": SCHEMA,
        "date": date,
        "adapter": dict(adapter),
        "model": json.loads(spec.to_json()),
        "prior": {"name": spec.prior, "sha256": prior_hash(spec)},
        "modalities": list(MODALITIES),
        "normalisation": {name: {"mean": mean, "sd": sd} for name, (mean, sd) in sorted(normalisation(spec).items())},
        "sites": dict(sorted(report["sites"].items())),
        "patients": sum(report["sites"].values()),
        "metrics": dict(metrics),
        "privacy": {**privacy, "statement": statement},
        "versions": versions(),
    }


def start_record(sha256: str, card: Mapping[str, Any]) -> dict[str, Any]:
    """Record the adapter that a run starts from, for the run's report and card: its hash, and what its card says.

    ``sha256``: hash of its vector. ``card``: its card, empty if it has none. The record gives the number of sites, not
    their names. Its ``privacy`` is None if no card says what the adapter was trained on. Its ``start`` is None if that
    adapter itself started from no other.
    """
    privacy, sites = card.get("privacy"), card.get("sites")
    if not isinstance(privacy, dict) or "mode" not in privacy or not isinstance(sites, dict):
        return {"sha256": sha256, "privacy": None}
    patients, start = card.get("patients"), card.get("start")
    return {"sha256": sha256, "privacy": privacy, "sites": len(sites), "patients": patients, "start": start}


def _describe_uncovered(start: Mapping[str, Any], which: str = "This run") -> str:
    """Say in words what a private run's promise leaves out: the training of the adapters that it started from."""
    privacy = start.get("privacy")
    if not privacy:
        how = "no card says what it was trained on"
    elif privacy["mode"] in _WITHOUT_NOISE:
        how = (
            f"by its card {start['patients']} patients of {start['sites']} sites, with no differential privacy; the"
            " adapter may reveal whether one of them took part"
        )
    else:
        how = (
            f"mode {privacy['mode']}, epsilon {privacy.get('epsilon', 'unknown')}, which adds to that of this run for"
            " a patient of both"
        )
    said = f"{which} began with the adapter {start['sha256'][:12]}, whose own training is not covered: {how}."
    return said if not start.get("start") else f"{said} {_describe_uncovered(start['start'], 'That one')}"


def public_card(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return the card as it may be published: each site's name becomes a number, in the order of the names."""
    sites = {f"site-{number}": card["sites"][name] for number, name in enumerate(sorted(card["sites"]), 1)}
    # Cards of earlier versions named sites in a part "base" too.
    return {**{key: value for key, value in card.items() if key != "base"}, "sites": sites}


def card_path(adapter: Path) -> Path:
    """Path of the card of the adapter file ``adapter``: the same name, ending in .json."""
    return adapter.with_suffix(".json")


def card_bytes(card: Mapping[str, Any]) -> bytes:
    """The bytes of the card's file."""
    return (json.dumps(card, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def read_card(path: Path, vector_sha256: str) -> dict[str, Any]:
    """Return the card at ``path``. It is empty if there is no card, or if the card belongs to another adapter."""
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    adapter = card.get("adapter") if isinstance(card, dict) else None
    return card if isinstance(adapter, dict) and adapter.get("sha256") == vector_sha256 else {}

"""The card of an adapter: what it was trained on, by whom and under which promises; one JSON file beside the weights.

The adapter's own file is a function of its numbers alone (shared_model/adapter/manifest.py), so everything that may
differ between two trainings of the same numbers, such as the date, stands here. ``adapter.sha256`` binds the two
together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared_model.backbone.prior import prior_hash
from shared_model.backbone.wan_vae import SCALE
from shared_model.core.software import versions
from shared_model.diffusion.modalities import HAAR
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import MODALITIES

SCHEMA = 1

STATEMENTS: Mapping[str, str] = {
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


def adapter_card(
    spec: ModelSpec, adapter: Mapping[str, Any], report: Mapping[str, Any], metrics: Mapping[str, float], date: str
) -> dict[str, Any]:
    """Make the card of a finished run.

    ``adapter``: sha256 of the vector, file_sha256, numbers and manifest; ``report``: name, seed, rounds, sites
    (training patients by name), privacy and perhaps base, public and start of the run's report (server/app.py);
    ``metrics``: of the last evaluation, averaged over patients; ``date``: ISO 8601, UTC.
    """
    scale = SCALE if spec.prior == "wan" else HAAR.scale
    privacy = dict(report["privacy"])
    told = {key: report[key] for key in ("name", "seed", "rounds", "base", "public", "start") if key in report}
    statement = STATEMENTS[str(privacy["mode"])]
    if privacy["mode"] != "none" and "start" in report:
        statement += " " + _describe_uncovered(report["start"])
    return {
        **told,
        "schema": SCHEMA,
        "date": date,
        "adapter": dict(adapter),
        "model": json.loads(replace(spec, base_weights="").to_json()),
        "prior": {"name": spec.prior, "sha256": prior_hash(spec)},
        "modalities": list(MODALITIES),
        "normalisation": {name: {"mean": mean, "sd": sd} for name, (mean, sd) in sorted(scale.items())},
        "sites": dict(sorted(report["sites"].items())),
        "patients": sum(report["sites"].values()),
        "metrics": dict(metrics),
        "privacy": {**privacy, "statement": statement},
        "versions": versions(),
    }


def start_record(sha256: str, card: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's report and card keep of the adapter that the run began with: its hash, and what its card says.

    ``sha256``: of its vector; ``card``: empty where it has none. Sites are counted, not named. ``privacy`` is None
    where no card says what the adapter was trained on, ``start`` where it began with no other.
    """
    privacy, sites = card.get("privacy"), card.get("sites")
    if not isinstance(privacy, dict) or "mode" not in privacy or not isinstance(sites, dict):
        return {"sha256": sha256, "privacy": None}
    patients, start = card.get("patients"), card.get("start")
    return {"sha256": sha256, "privacy": privacy, "sites": len(sites), "patients": patients, "start": start}


def _describe_uncovered(start: Mapping[str, Any], which: str = "This run") -> str:
    """In words what the promise of a private run leaves out: the training of what it began with, and so on back."""
    privacy = start.get("privacy")
    if not privacy:
        how = "no card says what it was trained on"
    elif privacy["mode"] == "none":
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
    """Return the card for the public: sites by number, in the order of their names, wherever it names them."""
    base = card.get("base", {})
    names = sorted({*card["sites"], *base.get("sites", {})})
    pseudonyms = {name: f"site-{number}" for number, name in enumerate(names, 1)}
    told = {**card, "sites": {pseudonyms[name]: patients for name, patients in card["sites"].items()}}
    if base:
        told["base"] = {**base, "sites": {pseudonyms[name]: patients for name, patients in base["sites"].items()}}
    return told


def card_path(adapter: Path) -> Path:
    """Where the card of the adapter file ``adapter`` stands: the same name, ending in .json."""
    return adapter.with_suffix(".json")


def card_bytes(card: Mapping[str, Any]) -> bytes:
    """Write the card as the file holds it."""
    return (json.dumps(card, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def read_card(path: Path, vector_sha256: str) -> dict[str, Any]:
    """Return the card at ``path``, or an empty one where there is none or it is another adapter's."""
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    adapter = card.get("adapter") if isinstance(card, dict) else None
    return card if isinstance(adapter, dict) and adapter.get("sha256") == vector_sha256 else {}

"""The coordinator's Flower ServerApp: reads the composed configuration, runs the rounds, writes adapter and report.

The run config holds ``config`` (JSON of a RunConfig), ``config-sha256`` (of that text, in hex), ``out`` (output folder)
and, in a deployment, ``home`` (the coordinator's folder, which says who may take part:
server/consortium/participants.py). The app writes ``out/adapter.safetensors``, its model card ``out/adapter.json`` and
``out/federation.json``. ``out/events.jsonl`` and ``out/checkpoint`` grow during the run.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from server.config.privacy import mask_terms, privacy_report, releases, run_terms
from server.config.run import RunConfig
from server.consortium.participants import members_of
from server.deployment.home import ServerHome
from server.record.events import Listener
from server.record.patient_counts import PatientCounts
from server.rounds.loop import run_federation
from server.rounds.patient_counts import counts_cost
from server.rounds.public_gate import public_summary
from server.rounds.result import FederationResult
from server.runs.failure import ReportedError
from server.sites.attendance import Members
from server.sites.dialect import FILE as LEDGERS
from server.sites.dialect import DialectGrid
from shared_model.core.errors import FedKT3DError, InputError
from shared_model.core.files import ORDINARY, write_bytes, write_text

if TYPE_CHECKING:
    from shared_model.network.spec import ModelSpec

app = ServerApp()


@app.main()
def _main(grid: Grid, context: Context) -> None:
    try:
        federate(grid, context)
    except FedKT3DError as error:
        raise ReportedError(error) from error


def run_config(config: RunConfig, out: Path) -> dict[str, str]:
    """Return the run config that ``federate`` reads: flat strings, as Flower requires."""
    text = config.to_json()
    return {"config": text, "config-sha256": hashlib.sha256(text.encode()).hexdigest(), "out": str(out.resolve())}


def federate(
    grid: Grid, context: Context, on_event: Listener | None = None, members: Members | None = None
) -> FederationResult:
    """Run the federation that the context's run config describes; raises InputError, QuorumError.

    ``members``: who may take part, for a run without a coordinator's folder.
    """
    config, out = _read(context)
    home = str(context.run_config.get("home", ""))
    if members is None:
        members = members_of(ServerHome.load(Path(home)), config) if home else Members()
    log = None if members.log is None else members.log.log
    grid = DialectGrid(grid, members.register, Path(home) / "state" / LEDGERS if home else None, log)
    # torch is slow to import. A bad configuration is refused before these imports.
    from shared_model.adapter.card import adapter_card, card_bytes, card_path
    from shared_model.adapter.factors import find_factors
    from shared_model.adapter.heads import heads
    from shared_model.adapter.manifest import layout, manifest_hash, save_adapter, stage_mask, vector_hash
    from shared_model.backbone.prior import pin_prior
    from shared_model.bundled import PUBLIC_CASES
    from shared_model.network.spec import ModelSpec
    from shared_model.prediction.public_check import PublicCheck, public_cases

    spec = pin_prior(ModelSpec.from_json(json.dumps(config.model)))
    initial, start = starting_point(config, spec)
    manifest = manifest_hash(spec)
    masks = partial(stage_mask, spec)
    rounds = config.rounds
    check = PublicCheck(spec, public_cases(Path(rounds.public_cases or PUBLIC_CASES))) if rounds.judged else None
    pairs = find_factors(layout(spec))
    if config.train.personal:
        heads(spec, config.train.personal)  # an unknown name is refused before any site is asked
    result = run_federation(
        grid, config, spec.to_json(), manifest, initial, out, on_event, members, masks, check, pairs
    )
    report = federation_report(config, result, vector_hash(result.vector))
    if start is not None:
        report["start"] = start
    adapter = out / "adapter.safetensors"
    file_sha256 = save_adapter(adapter, spec, result.vector)
    identity = {
        "sha256": report["adapter_sha256"],
        "file_sha256": file_sha256,
        "numbers": int(result.vector.size),
        "manifest": manifest,
    }
    date = datetime.now(UTC).isoformat(timespec="seconds")
    counts = PatientCounts.read(out)
    if counts is not None:
        report["privacy"]["statistics"] = counts_cost(counts, config, int(report["privacy"].get("steps", 0)))
    card = adapter_card(spec, identity, report, last_evaluation(result), date)
    if counts is not None and (ranges := counts.trained_on(config.privacy.cohort)):
        card["trained_on"] = ranges
    write_bytes(card_path(adapter), card_bytes(card), mode=ORDINARY)
    write_text(out / "federation.json", json.dumps(report, indent=1), mode=ORDINARY)
    return result


def starting_point(config: RunConfig, spec: ModelSpec) -> tuple[NDArray[np.float32], dict[str, Any] | None]:
    """Return the shared vector before round 1, (d,): that of the adapter in ``config.initial``, or the prior's own.

    Also return what report and model card record of that adapter (shared_model/adapter/card.py); None for the prior's
    own. Raises InputError when the adapter belongs to another model.
    """
    from shared_model.adapter.card import start_record
    from shared_model.adapter.manifest import initial_vector, load_adapter, manifest_hash, vector_hash

    if not config.initial:
        return initial_vector(spec), None
    found, vector, card = load_adapter(Path(config.initial))
    if manifest_hash(found) != manifest_hash(spec):
        raise InputError(f"initial={config.initial}: this adapter belongs to another model than this run's")
    return vector, start_record(vector_hash(vector), card)


def last_evaluation(result: FederationResult) -> dict[str, float]:
    """Return the metrics of the last evaluated round, averaged over patients; empty if no round was evaluated."""
    found = [record.evaluation.metrics for record in result.history if record.evaluation is not None]
    return dict(found[-1]) if found else {}


def federation_report(config: RunConfig, result: FederationResult, adapter_hash: str) -> dict[str, Any]:
    """Return a finished run's report as plain JSON values: who took part, what was dropped and why, metrics, bytes."""
    drops = [{"round": 0, **asdict(drop)} for drop in result.drops]
    for record in result.history:
        drops += [{"round": record.round, **asdict(drop)} for drop in record.drops]
        if record.evaluation is not None:
            drops += [{"round": record.round, **asdict(drop)} for drop in record.evaluation.drops]
    return {
        "name": config.name,
        "seed": config.seed,
        "config": asdict(config),
        "privacy": privacy_report(run_terms(config), result.history, releases(config), mask_terms(config)),
        "rounds": result.rounds,
        "resumed_from": result.resumed_from,
        "public": public_summary(result.history),
        "sites": result.sites,
        "wire_bytes_per_round": result.wire_bytes_per_round,
        "adapter_sha256": adapter_hash,
        "drops": drops,
        "history": [record.to_plain() for record in result.history],
    }


def _read(context: Context) -> tuple[RunConfig, Path]:
    values: dict[str, str] = {}
    for key in ("config", "config-sha256", "out"):
        value = context.run_config.get(key)
        if not isinstance(value, str) or not value:
            raise InputError(f"run config: {key} is missing; start runs with `server run` or `simulate run`")
        values[key] = value
    if hashlib.sha256(values["config"].encode()).hexdigest() != values["config-sha256"]:
        raise InputError("run config: config does not match config-sha256; it was changed on its way")
    return RunConfig.from_json(values["config"]), Path(values["out"])

"""Decides whether two starts are the same run. Only then may they share an output folder and its checkpoints."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from server.config.run import RunConfig
from shared_model.core.errors import InputError
from shared_model.network.spec import BASE_SIZE, FORMER_KEYS
from shared_model.patient.anatomy import HEAD_NECK

# Group, key, and the value that means what runs did before the key: they go on too.
_BEFORE = (
    ("aggregate", "rule", "mean"),
    ("train", "proximal", 0.0),
    ("train", "control", "none"),
    ("train", "personal", ""),
    ("rounds", "buffer", 0),
    ("privacy", "statistics", 0.0),
)


def _file_hash(name: str) -> str:
    try:
        return hashlib.sha256(Path(name).read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"rounds.public_cases={name}: cannot be read ({error.strerror})") from error


def run_identity(config: RunConfig, spec_json: str, manifest_hash: str, initial: bytes) -> str:
    """SHA-256 of all that determines the result; two runs may share an output folder only where it is equal.

    Waiting times and the number of attempts do not count, so that a stopped run can go on with more patience. Public
    patients count by the content of their file. Where no round is judged, neither they nor their limits count.
    """
    counted = asdict(config)
    if not config.rounds.judged:
        for judging in ("public_step", "public_worst", "public_cases"):
            del counted["rounds"][judging]
    elif config.rounds.public_cases:
        counted["rounds"]["public_cases"] = _file_hash(config.rounds.public_cases)
    for key, usual in (("body_site", HEAD_NECK), ("size", BASE_SIZE)):  # runs of before the key go on
        if counted["model"].get(key) == usual:
            del counted["model"][key]
    counted["model"] |= FORMER_KEYS if counted["model"] else {}  # simulated quadratics have no model
    if counted["aggregate"]["rule"] != "trimmed":
        del counted["aggregate"]["trim"]
    if not counted["evaluate"]["tune_steps"]:
        del counted["evaluate"]["tune_steps"], counted["evaluate"]["tune_lr"]
    for group, key, before in _BEFORE:
        if counted[group][key] == before:
            del counted[group][key]
    for harmless in ("deadline_s", "wait_for_sites_s", "wait_for_return_s", "attempts", "keep"):
        del counted["rounds"][harmless]
    digest = hashlib.sha256(json.dumps([counted, spec_json, manifest_hash], sort_keys=True).encode())
    digest.update(initial)
    return digest.hexdigest()

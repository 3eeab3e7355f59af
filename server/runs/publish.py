"""`server publish`: a finished run's adapter and its model card, in a form that anyone may have.

The adapter is the run's file byte for byte. The model card names sites by number (shared_model/adapter/card.py). Beside
them: a README in Hugging Face's form and, of LoRA, what the library peft loads (shared_model/adapter/hub.py).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.deployment.home import ServerHome
from server.record.public_log import plain_hash
from server.runs.index import ADAPTER, find
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_bytes


@dataclass(frozen=True, kw_only=True)
class Published:
    """What was written, and the SHA-256 of the adapter's file."""

    adapter: Path
    card: Path
    sha256: str


def publish(home: ServerHome, target: Path, name: str | None) -> Published:
    """Write the adapter and public model card of the run ``name`` (default: the last run) to the folder ``target``.

    InputError when that run has not finished, its files do not belong together, or ``target`` holds another adapter.
    """
    from shared_model.adapter.card import card_bytes, card_path, public_card
    from shared_model.adapter.hub import write_hub_files
    from shared_model.adapter.manifest import load_adapter

    source = find(home, name).out / ADAPTER
    if not source.is_file():
        raise InputError(f"{source}: no adapter yet; `server run --resume` finishes the run")
    spec, vector, card = load_adapter(source)
    content = source.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if _file_hash(card) != sha256:
        raise InputError(f"{card_path(source)}: not the card of the adapter beside it; run the same command again")
    adapter = target / ADAPTER
    if adapter.exists() and adapter.read_bytes() != content:
        raise InputError(f"{adapter}: holds another adapter; choose a new folder (nothing was written over)")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{target}: cannot be used as a folder ({error.strerror}); choose another") from error
    told = public_card(card)
    ranges = {"trained_on": plain_hash(told["trained_on"])} if told.get("trained_on") else {}
    home.public_log().add("publish", run=find(home, name).name, adapter=sha256, **ranges)
    write_bytes(card_path(adapter), card_bytes(told), mode=ORDINARY)
    write_bytes(adapter, content, mode=ORDINARY)
    write_hub_files(adapter, spec, vector, told)
    return Published(adapter=adapter, card=card_path(adapter), sha256=sha256)


def _file_hash(card: dict[str, Any]) -> str:
    return str(card.get("adapter", {}).get("file_sha256", ""))

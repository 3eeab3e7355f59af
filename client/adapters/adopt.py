"""`client adopt`: test a new shared adapter on held-back patients, take it into use, align it to the scorecard.

```
adapters/shared.safetensors   what the site predicts with; .previous: the one before
adapters/acceptance.json      the last test, passed or not
private/SHARED/               the private adapter made for it (client/adapters/align.py); never leaves this folder.
                              SHARED.previous: made for another scorecard, setting or patients than now
scorecard.yaml                the site's own scorecard; without one there is no alignment
```
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.adapters.acceptance import AdoptionVerdict, Margins, good_enough, non_inferior
from client.site.config import SiteConfig
from client.site.home import ClientHome
from client.training.train import score_validation
from privacy.flower.processes import sole_instance
from privacy.wire.messages import EvaluateTask
from shared_model.adapter.manifest import load_adapter, vector_hash
from shared_model.core.errors import PolicyError
from shared_model.core.files import ORDINARY, write_bytes, write_text
from shared_model.scoring.dosimetry import CaseScore

SHARED_FILE = "shared.safetensors"


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """The result: the verdict, and where the adapter in use lies."""

    verdict: AdoptionVerdict
    adapter: Path
    sha256: str


def adapters_folder(home: ClientHome) -> Path:
    """Where the site keeps the shared adapter in use."""
    return home.folder / "adapters"


def own_card(home: ClientHome) -> Path:
    """The site's own scorecard."""
    return home.scorecard


def adopt(home: ClientHome, adapter: Path, margins: Margins, say: Callable[[str], None]) -> Adopted:
    """Test ``adapter`` and take it into use; PolicyError where it is worse than the one in use, which then stays."""
    site = SiteConfig.load(home.site_config)
    folder = adapters_folder(home)
    current = folder / SHARED_FILE
    with sole_instance(home.folder / "state" / "adopt.lock", "an adoption"):
        folder.mkdir(mode=0o700, exist_ok=True)
        _, vector, _ = load_adapter(adapter)
        say(f"scoring the new adapter on {len(site.validation)} held-back patients")
        new = _scores(site, adapter)
        verdict = good_enough(new, margins)
        if current.is_file():
            say("scoring the adapter in use")
            verdict = non_inferior(new, _scores(site, current), margins)
        record: dict[str, Any] = {"adapter_sha256": vector_hash(vector), **verdict.record()}
        write_text(folder / "acceptance.json", json.dumps(record, indent=1) + "\n")
        if not verdict.accepted:
            raise PolicyError(f"the adapter is not adopted: {verdict.reason}; see {folder / 'acceptance.json'}")
        _take(adapter, current)
    return Adopted(verdict=verdict, adapter=current, sha256=vector_hash(vector))


def _scores(site: SiteConfig, adapter: Path) -> list[CaseScore]:
    spec, vector, _ = load_adapter(adapter)
    task = EvaluateTask(round=1, split="validation", sampler_steps=1, candidates=1, seed=0)
    return score_validation(site, spec, vector, task)


def _take(adapter: Path, current: Path) -> None:
    """Put a copy of ``adapter`` in place; the one in use until now stays beside it, each whole or not at all."""
    if current.is_file():
        previous = current.with_name(f"{current.stem}.previous{current.suffix}")
        write_bytes(previous, current.read_bytes(), mode=ORDINARY)
    write_bytes(current, adapter.read_bytes(), mode=ORDINARY)

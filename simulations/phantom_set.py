"""`simulate phantom-set`: public phantoms on which a coordinator judges rounds (shared_model/phantom_check.py)."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared_model.phantom_check import PHANTOMS, pack_phantom
from simulations.phantom import STYLES, phantom_case
from simulations.tables import write_json

# Hospitals and priors take other seeds, so that what is checked on has taught nothing.
FIRST_SEED = 4_200_000_000


def write_phantom_set(out: Path, per_style: int) -> str:
    """Write ``per_style`` phantoms of each style as ``cases.npz`` with a card to ``out``; the same bytes each time."""
    arrays: dict[str, NDArray[Any]] = {}
    styles = sorted(STYLES)
    for index in range(per_style * len(styles)):
        case = phantom_case(FIRST_SEED + index, STYLES[styles[index % len(styles)]], case_id=f"public_{index}")
        arrays.update({f"{index}.{name}": array for name, array in pack_phantom(case).items()})
    out.mkdir(parents=True, exist_ok=True)
    path = out / PHANTOMS.name
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    card = {
        "what": "public phantom patients that a federation's rounds are checked on; synthetic, no patient data",
        "recipe": f"simulate phantom-set --out DIR --per-style {per_style}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "styles": styles,
        "phantoms": per_style * len(styles),
        "licence": "Apache-2.0",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    write_json(out / "card.json", card)
    return f"{card['phantoms']} phantoms, {path.stat().st_size / 1e6:.2f} MB, sha256 {card['sha256']}"

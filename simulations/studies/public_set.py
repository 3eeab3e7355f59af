"""`simulate public-set`: public patients on whom a coordinator judges every round (prediction/public_check.py)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from client.data.load import load_case
from shared_model.bundled import PUBLIC_CASES
from shared_model.core.errors import InputError
from shared_model.patient.case import Case
from shared_model.prediction.public_check import write_public_cases
from simulations.data.datasets import evaluation_sites
from simulations.phantom.hospitals import STYLES, phantom_case
from simulations.reports.tables import write_json
from simulations.settings.commands import SPLITS, DataSettings, data_settings
from simulations.settings.composition import check_range, compose_values, path

# Hospitals and priors take other seeds, so that no model was trained on the patients who judge it.
FIRST_SEED = 4_200_000_000


@dataclass(frozen=True, kw_only=True)
class PublicSetSettings:
    """``simulate public-set``: which patients, how many, and the folder for their file."""

    out: Path
    split: str
    count: int
    data: DataSettings

    def __post_init__(self) -> None:
        check_range("count", self.count, 1, 1000)
        if self.split not in SPLITS:
            raise InputError(f"split={self.split!r}: expected one of {', '.join(SPLITS)}")


def public_set_settings(overrides: Sequence[str]) -> PublicSetSettings:
    """Compose and check the settings."""
    raw, _ = compose_values("public_set", overrides)
    return PublicSetSettings(
        out=path(raw["out"], "out"), split=str(raw["split"]), count=raw["count"], data=data_settings(raw)
    )


def write_public_set(settings: PublicSetSettings) -> str:
    """Write ``cases.npz`` with a card to ``settings.out``; the same bytes each time. Returns a line on it."""
    phantoms = settings.data.kind == "phantom"
    cases = _phantoms(settings.count) if phantoms else _of_cohort(settings)
    settings.out.mkdir(parents=True, exist_ok=True)
    file = settings.out / PUBLIC_CASES.name
    digest = write_public_cases(file, cases)
    what = "synthetic, no patient data" if phantoms else f"OpenKBP, split {settings.split} (MIT licence)"
    card = {
        "what": f"public patients on whom a federation's rounds are judged; {what}",
        "recipe": f"simulate public-set count={settings.count} out=DIR"
        + ("" if phantoms else f" data={settings.data.kind} data.root=ROOT split={settings.split}"),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "patients": len(cases),
        "sha256": digest,
    }
    write_json(settings.out / "card.json", card)
    return f"{len(cases)} patients, {file.stat().st_size / 1e6:.2f} MB, sha256 {digest}\ncases     {file}"


def _phantoms(count: int) -> list[Case]:
    """Phantoms of all styles in turn."""
    styles = sorted(STYLES)
    return [phantom_case(FIRST_SEED + i, STYLES[styles[i % len(styles)]], case_id=f"public_{i}") for i in range(count)]


def _of_cohort(settings: PublicSetSettings) -> list[Case]:
    """Evenly spaced patients of a split, under names that do not tell who they are."""
    (site,) = evaluation_sites(settings.data, settings.split, settings.out, 0)
    ids = site.validation
    if len(ids) < settings.count:
        raise InputError(f"count={settings.count}: split {settings.split} has {len(ids)} patients")
    chosen = [ids[i * len(ids) // settings.count] for i in range(settings.count)]
    return [replace(load_case(site, case_id), case_id=f"public_{i}") for i, case_id in enumerate(chosen)]

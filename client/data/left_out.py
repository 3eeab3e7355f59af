"""Cases that a site leaves out because they cannot be read: one bad patient does not stop a hospital.

In the private modes such a case counts as zero (client/training/patient_gradients.py) and is not left out here: whether
and how a site answers must not depend on one patient.

``state/left_out.json`` in the site's home names them, with the reason and the state of their file. A case comes back by
itself once its file has changed. The file stays at the site, as the cases do.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from client.site.config import DICOM, SiteConfig
from privacy.flower.processes import read_state, write_state
from shared_model.core.errors import InputError

FILE = "left_out.json"


class UnreadableCasesError(InputError):
    """Some of a site's cases cannot be read. ``cases``: case id -> why. The text names the first."""

    def __init__(self, cases: dict[str, str]) -> None:
        first = next(iter(cases.values()))
        super().__init__(first + (f" (and {len(cases) - 1} more cases)" if len(cases) > 1 else ""))
        self.cases = cases


def left_out(home: Path | str) -> dict[str, Any]:
    """Return what is left out at the site in ``home``: case id -> why and state."""
    return read_state(Path(home) / "state" / FILE)


def without(site: SiteConfig, home: Path | str) -> SiteConfig:
    """Return the site without the cases that were left out and whose files have not changed since.

    Where nothing would remain of a split, that split stays as it is: the data as a whole cannot be read. So does a
    simulated site, which has no ``home`` (an empty text).
    """
    if not home:
        return site
    out = {case for case, entry in left_out(home).items() if entry.get("state") == _state(site, case)}
    train, validation = (tuple(c for c in split if c not in out) or split for split in (site.train, site.validation))
    if (train, validation) == (site.train, site.validation):
        return site
    plans = tuple(tuple(case for case in group if case in train) for group in site.plans)
    return replace(site, train=train, validation=validation, plans=tuple(filter(None, plans)))


def leave_out(site: SiteConfig, home: Path | str, error: UnreadableCasesError) -> SiteConfig:
    """Note the cases that cannot be read, and return the site without them.

    Raises ``error`` where there is no home to note them in, or where no case of their split is left.
    """
    if not home:
        raise error
    noted = {case: {"why": why, "state": _state(site, case)} for case, why in error.cases.items()}
    listed = {*site.train, *site.validation}
    kept = {case: entry for case, entry in left_out(home).items() if case in listed or entry.get("state")}
    write_state(Path(home) / "state" / FILE, {**kept, **noted})
    fewer = without(site, home)
    if not error.cases.keys().isdisjoint((*fewer.train, *fewer.validation)):
        raise error
    return fewer


def _state(site: SiteConfig, case: str) -> str:
    """Return a word that changes with the case's files; of DICOM, with the folder."""
    from client.data.load import case_path  # the readers import torch, and a status must not

    try:
        path = site.root if site.data == DICOM else case_path(site, case)
        status = path.stat()
    except (InputError, OSError):
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"

"""The site's reference plans as they are kept to score cards on them: read once, then no more than that needs.

```
HOME/state/plans/CASE.npz     a case file (client/data/case_files.py) of body, structures and dose: no CT, no beams
HOME/state/plans/CASE.json    what it was read from, and the values of all criteria that were asked of it so far
```

A plan is read again when its file, the site's names of structures or this package has changed. Changed DICOM is seen
once training or alignment has read it anew (client/data/dicom_cohort.py), or when the plans are read again on request.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from client.data import case_files, dicom_cohort
from client.data.load import SITE_LOG, case_path, load_case
from client.site.config import DICOM, SiteConfig
from client.site.home import ClientHome
from shared_model.core.errors import InputError
from shared_model.core.files import write_json
from shared_model.patient.case import Case
from shared_model.scoring import scorecard
from shared_model.scoring.scorecard import Criterion, Scorecard

# Raise this number when the files here change.
FORMAT = 1
_MOST_VALUES = 1000


@dataclass(frozen=True, kw_only=True)
class KeptPlan:
    """One case. ``values``: by ``value_key``, None where the criterion does not apply. ``usable``: it has a dose."""

    case_id: str
    usable: bool
    values: dict[str, float | None] = field(default_factory=dict)

    def lacks(self, card: Scorecard) -> bool:
        """Whether a criterion of ``card`` was not asked of it yet."""
        return self.usable and any(value_key(c) not in self.values for c in card.criteria)


class KeptPlans:
    """The plans of one site, which are read when they are first asked for."""

    def __init__(self, home: ClientHome) -> None:
        self._site, self._folder = SiteConfig.load(home.site_config), home.kept_plans
        # Held-back patients first: they are the ones that `client align` and `client report` show.
        self.case_ids = (*self._site.validation, *self._site.train)

    def kept(self, case_id: str) -> KeptPlan | None:
        """Return the plan as it was read before; None where it was not, or has changed since."""
        try:
            record = json.loads(self._record(case_id).read_text(encoding="utf-8"))
            if record["of"] != self._state(case_id):
                return None
            return KeptPlan(case_id=case_id, usable=record["usable"] is True, values=dict(record["values"]))
        except (OSError, ValueError, KeyError, TypeError, InputError):
            return None

    def read(self, case_id: str) -> KeptPlan:
        """Read the site's files. One that cannot be read, or has no dose, is kept as not usable."""
        case = None
        try:
            case = load_case(self._site, case_id)
        except Exception as error:  # whatever one patient's files raise; only the site's own log says so
            SITE_LOG.error("a plan cannot be scored (%s)", type(error).__name__, exc_info=error)
        plan = KeptPlan(case_id=case_id, usable=case is not None and case.dose_gy is not None)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if case is not None and plan.usable:
            small = replace(case, ct_hu=None, beam_plate=None, angle_plate=None, gantry_deg=())
            case_files.save_case(self._case_file(case_id), small)
        self._keep(plan)
        return plan

    def valued(self, plan: KeptPlan, card: Scorecard) -> KeptPlan:
        """Return the plan with the values of all criteria of ``card``; those that were not asked before are kept."""
        missing = [c for c in card.criteria if value_key(c) not in plan.values]
        if not missing:
            return plan
        values = {**plan.values, **_values(card, missing, case_files.load_case(self._case_file(plan.case_id)))}
        plan = replace(plan, values=dict(list(values.items())[-_MOST_VALUES:]))
        self._keep(plan)
        return plan

    def forget_all(self) -> None:
        """Delete what is kept, so that all is read again."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _keep(self, plan: KeptPlan) -> None:
        record = {"of": self._state(plan.case_id), "usable": plan.usable, "values": plan.values}
        write_json(self._record(plan.case_id), record, durable=False)

    def _record(self, case_id: str) -> Path:
        return self._folder / f"{case_id}.json"

    def _case_file(self, case_id: str) -> Path:
        return self._folder / f"{case_id}.npz"

    def _state(self, case_id: str) -> list[Any]:
        """What the kept files depend on, as JSON values."""
        site = self._site
        names = site.names.read_bytes() if site.names is not None and site.names.is_file() else b""
        package = [FORMAT, dicom_cohort.FORMAT, version("fedkt3d"), _scoring_digest()]
        return [*package, hashlib.sha256(names).hexdigest(), _files(site, case_id)]


def value_key(c: Criterion) -> str:
    """What a criterion's value depends on beside the plan: not its points, weight, limits or name."""
    what = (c.regions, c.reduce, c.metric, c.unit, c.prescription)
    return hashlib.sha256(repr(what).encode()).hexdigest()[:16]


def _values(card: Scorecard, criteria: Sequence[Criterion], case: Case) -> Mapping[str, float | None]:
    """Values of ``criteria`` for the case's own dose, in double precision, as client/adapters/scores.py has them."""
    found: dict[str, float | None] = dict.fromkeys((value_key(c) for c in criteria), None)
    assert case.dose_gy is not None  # as kept
    try:
        bound = replace(card, criteria=tuple(criteria)).bind(case)
    except InputError:  # the patient has none of these structures
        return found
    values = bound.values(torch.from_numpy(case.dose_gy)[None].to(torch.float64))[0].tolist()
    return found | {value_key(c): value for c, value in zip(bound.criteria, values, strict=True)}


def _files(site: SiteConfig, case_id: str) -> list[list[Any]]:
    """Name, size and time of the files that a plan is read from; of DICOM, of the case that reading it has left."""
    if site.data == DICOM:
        kept = () if site.cache is None else (site.cache / "cases").glob(f"{case_id}-*.npz")
        return sorted([path.name] for path in kept)
    try:
        path = case_path(site, case_id)
    except InputError:  # two files of one name
        return []
    if not path.is_file():
        return []
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns]]


@lru_cache(maxsize=1)
def _scoring_digest() -> str:
    """Of the code that gives a criterion its value: after an update no value of the code before is shown."""
    digest = hashlib.sha256()
    for source in sorted(Path(scorecard.__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]

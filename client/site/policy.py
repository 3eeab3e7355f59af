"""The site's policy.yaml: what it does for a coordinator, how much, when, and what may leave (checked in limits.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from client.site.hours import Window
from privacy.dp.ledger import SiteLedger
from privacy.dp.terms import MODES
from privacy.wire.heads import KINDS
from shared_model.core.errors import FieldError, InputError
from shared_model.core.located import Located, parse_located, read_located
from shared_model.network.spec import ADAPTERS

SCHEMA = 1

_DEFAULT = """\
# This site's own limits. They win over whatever the coordinator asks. A request beyond them is refused; the reason
# appears in this site's log, in `client status` and at the coordinator.
# This file is read anew for each request: no restart is needed.
schema: 1

# Work only under a federation plan that this site has accepted (`client plan --accept`).
require_plan: true

# Privacy modes that this site takes part in.
#   shared: noise that all sites add together hides each patient; the coordinator sees only the sum.
#   local: this site's own noise hides each patient.
#   site: as shared, but the noise hides each hospital instead of each patient.
#   masked: NO noise. The coordinator sees exact sums over all sites, of updates, losses and scores, and no single
#     one of them. That hides this hospital from the coordinator. It does not hide a patient: sums and adapter may
#     reveal them.
#   none: NO privacy, for tests. The coordinator sees this site's updates as they are, and exact answers to
#     evaluate.
# With neither masked nor none in this list, evaluate is refused.
modes: [shared]

# Take part in sums only with hospitals whose keys somebody here has compared with them (`client trust`). Without it, a
# coordinator that also holds the consortium's CA could be all other hospitals to this one, and see its vector.
known_peers: true

# An accepted plan must add up the updates of at least this many hospitals in a round. In every mode but none the
# least is 3, whatever stands here: with two hospitals, each could subtract its own part from the sum.
least_sites: 2

# At least this many patients of this site must be behind anything that leaves it. Training patients count (each once,
# however many plans they have); for evaluate, validation patients.
# A mean over a handful of patients says much about each of them. Raise this to what your data protection officer asks.
least_patients: 1

# The most privacy budget that this site spends in all, over every run and coordinator, in the private modes. When it is
# spent, the site releases nothing more. null means no limit.
#   max_epsilon: towards a coordinator and as many colluding sites as a plan allows for.
#   max_epsilon_alone: towards all others together. It bounds how far a plan of many sites may dilute this site's noise.
# Both are epsilon at this delta.
max_epsilon: 8.0
max_epsilon_alone: 60.0
delta: 1.0e-5

# Folder of the privacy ledger. null means ledger/ in this site's home, which `client init` makes.
# A hospital that is in several federations has several homes but the same patients: name one folder in all of them,
# and make its ledger once with `client budget --home DIR --make-ledger`.
# Without a ledger, no request of a private mode is answered.
ledger: null

# What this site answers.
#   describe: that it is there, and how many patients it has
#   train, evaluate: training, and scores on validation patients
#   statistics: noised counts of how many training patients have which volumes, doses, voxel sizes and organs, summed
#     with the other hospitals' under masks, and charged to the ledger
tasks: [describe, train, evaluate, statistics]

# Which kinds of adapter may leave, and how large one update may be (10^6 bytes).
adapters: [full, blocks, lora+embeddings, lora, base, film, bias, head]
max_adapter_mb: 256

# Names of the numbers that may leave with an answer. All others are removed from it.
metrics: [loss, seconds, dose_score_gy, dvh_score_gy, mae_ref5_gy, mae_gdp_gy, patients]

# The most work that one run, one round or one evaluation may ask for.
max_rounds: 1000
max_local_steps: 1000
max_batch_size: 64
max_sampler_steps: 100
max_candidates: 8

# Hours that one task may take. A task that takes longer is taken to hang, and its process is started anew.
# This value is read when `client start` begins.
max_task_hours: 24

# When this site works, in its local time, such as ["mon-fri 19:00-06:00", "sat-sun 00:00-24:00"]. Empty means always.
hours: []
"""


def default_policy_text(ledger: Path | None = None) -> str:
    """Return the commented policy.yaml that a new site starts with. ``ledger``: the folder of an existing ledger."""
    return (
        _DEFAULT if ledger is None else _DEFAULT.replace("\nledger: null\n", f"\nledger: {json.dumps(str(ledger))}\n")
    )


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What policy.yaml says; the comments of ``default_policy_text`` explain each key."""

    require_plan: bool
    modes: tuple[str, ...]
    known_peers: bool
    least_sites: int
    least_patients: int
    max_epsilon: float | None
    max_epsilon_alone: float | None
    delta: float
    ledger: Path | None
    tasks: tuple[str, ...]
    adapters: tuple[str, ...]
    max_adapter_mb: float
    metrics: tuple[str, ...]
    max_rounds: int
    max_local_steps: int
    max_batch_size: int
    max_sampler_steps: int
    max_candidates: int
    max_task_hours: float
    hours: tuple[Window, ...]

    def ledger_in(self, home: Path) -> SiteLedger:
        """Return the site's ledger, under this policy's limits."""
        return SiteLedger(
            folder=self.ledger or home / "ledger",
            delta=self.delta,
            limit=self.max_epsilon,
            limit_alone=self.max_epsilon_alone,
        )

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Read a policy. A missing key is an error: we never guess a limit.

        Raises InputError naming file, line and key, what was found and what was expected.
        """
        return cls._of(read_located(path))

    @classmethod
    def parse(cls, text: str, file: str) -> Policy:
        """Read a policy from a text; ``file`` names it in errors. Raises as ``load`` does."""
        return cls._of(parse_located(text, file))

    @classmethod
    def _of(cls, top: Located) -> Policy:
        if not top.is_mapping:
            raise top.error("expected keys and values such as 'least_patients: 20'")
        names = {field.name for field in fields(cls)}
        content = top.mapping(names | {"schema"})
        for key in sorted({"schema", *names} - set(content)):
            raise top.error(f"{key} is missing; `client init` writes a policy with every key")
        schema = content["schema"].value()
        if type(schema) is not int or schema != SCHEMA:
            raise content["schema"].error(f"expected {SCHEMA}")
        return cls(**{name: _value(content[name]) for name in names})


def _value(there: Located) -> Any:
    try:
        return _READ[there.key](there.key, there.value())
    except FieldError as error:
        raise there.error(error.text) from None


def _flag(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise FieldError(key, "expected true or false")
    return value


def _count(key: str, value: object) -> int:
    if type(value) is not int or not 1 <= value <= 1_000_000:
        raise FieldError(key, "expected a whole number from 1 to 1000000")
    return value


def _amount(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e6:
        raise FieldError(key, "expected a number above 0, up to 1000000")
    return float(value)


def _budget(key: str, value: object) -> float | None:
    return None if value is None else _amount(key, value)


def _delta(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 0.01:
        raise FieldError(key, "expected a probability above 0, up to 0.01, such as 1.0e-5")
    return float(value)


def _folder(key: str, value: object) -> Path | None:
    if value is None:
        return None
    if not isinstance(value, str) or not Path(value).is_absolute():
        raise FieldError(key, "expected an absolute path, or null")
    return Path(value)


def _words(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise FieldError(key, "expected a list of words, such as [a, b]")
    unknown = sorted(set(value) - set(_CHOICES.get(key, value)))
    if unknown:
        raise FieldError(key, f"{unknown[0]!r} is not known; expected some of {', '.join(_CHOICES[key])}")
    return tuple(value)


def _windows(key: str, value: object) -> tuple[Window, ...]:
    if not isinstance(value, list):
        raise FieldError(key, "expected a list of windows, such as ['19:00-06:00']")
    try:
        return tuple(Window.parse(window) for window in value)
    except InputError as error:
        raise FieldError(key, str(error)) from None


# What earlier versions could be asked for, and policies of their time still name. No request has it any more.
_FORMER_TASKS = ("base",)
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "modes": MODES, "tasks": (*KINDS, *_FORMER_TASKS), "adapters": ADAPTERS,
}  # fmt: skip
_READ: Mapping[str, Any] = {
    "require_plan": _flag,
    "known_peers": _flag,
    **dict.fromkeys(("modes", "tasks", "adapters", "metrics"), _words),
    **dict.fromkeys(("max_epsilon", "max_epsilon_alone"), _budget),
    "delta": _delta,
    "ledger": _folder,
    **dict.fromkeys(("max_adapter_mb", "max_task_hours"), _amount),
    **dict.fromkeys(("least_sites", "least_patients", "max_rounds", "max_local_steps"), _count),
    **dict.fromkeys(("max_batch_size", "max_sampler_steps", "max_candidates"), _count),
    "hours": _windows,
}

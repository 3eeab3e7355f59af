"""Lists of named variants (simulations/conf/lists): what each row of a series changes, and what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from client.site.config import SiteConfig
from shared_model.core.errors import InputError
from simulations.engine.faults import Fault
from simulations.settings.commands import STUDIES, WITHHELD

LISTS = Path(str(files("simulations.conf"))) / "lists"


@dataclass(frozen=True, kw_only=True)
class Absence:
    """A hospital, by its place in the order of names, that gives no update in some rounds.

    It is away after the share ``since`` of the rounds, until the share ``until``. ``every`` 3: all the same it is there
    in each third of these rounds.
    """

    place: int
    since: float = 0.0
    until: float = 1.0
    every: int = 0

    def rounds(self, count: int) -> tuple[int, ...]:
        """The rounds of so many in which it is away."""
        away = [number for number in range(1, count + 1) if self.since * count < number <= self.until * count]
        return tuple(number for number in away if not self.every or number % self.every)


@dataclass(frozen=True, kw_only=True)
class Clinic:
    """A new hospital at ``place`` with so many training patients, whose validation patients alone are scored."""

    place: int
    patients: int


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row: how it differs from the others, and what the paper reached (validation MAE in Gy, its score).

    ``study``: what trains, if not the list's. ``reference``: the row that it is compared with, if not the list's.
    ``absent``: hospitals that miss rounds. ``without``: modalities that are withheld when it is scored.
    """

    label: str
    overrides: tuple[str, ...] = ()
    paper_mae_gy: float | None = None
    paper_score: float | None = None
    study: str = ""
    reference: str = ""
    absent: tuple[Absence, ...] = ()
    clinic: Clinic | None = None
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.study not in ("", *STUDIES):
            raise InputError(f"study: {self.study!r}: expected {', '.join(STUDIES)}")
        if any(name not in WITHHELD for name in self.without):
            raise InputError(f"without: expected some of {', '.join(WITHHELD)}")

    @classmethod
    def read(cls, row: Mapping[str, Any], common: Sequence[str]) -> Variant:
        """From a list's YAML; ``common``: overrides that come before its own. KeyError, TypeError where it is odd."""
        plain = dict(row)
        clinic = plain.pop("clinic", None)
        return cls(
            overrides=(*common, *plain.pop("overrides")),
            absent=tuple(Absence(**one) for one in plain.pop("absent", ())),
            clinic=None if clinic is None else Clinic(**clinic),
            without=tuple(plain.pop("without", ())),
            **plain,
        )

    def faults(self, sites: Sequence[SiteConfig], rounds: int) -> list[Fault]:
        """The absences as errors of the sites' app, which come at once. InputError: no such place."""
        found = []
        for one in self.absent:
            away = one.rounds(rounds)
            if away:
                found.append(Fault(what="crash", site=_at(sites, one.place).site, rounds=away))
        return found

    def change(self, sites: Sequence[SiteConfig]) -> list[SiteConfig]:
        """The hospitals that train: as they are, or with so many patients at the new clinic."""
        if self.clinic is None:
            return list(sites)
        new = _at(sites, self.clinic.place)
        if len(new.train) < self.clinic.patients:
            raise InputError(f"clinic: {new.site} has {len(new.train)} training patients, not {self.clinic.patients}")
        few = replace(new, train=new.train[: self.clinic.patients], plans=())
        return [few if site is new else site for site in sites]

    def scored(self, sites: Sequence[SiteConfig]) -> list[SiteConfig]:
        """The hospitals whose validation patients count."""
        return list(sites) if self.clinic is None else [_at(sites, self.clinic.place)]


def _at(sites: Sequence[SiteConfig], place: int) -> SiteConfig:
    if not 0 <= place < len(sites):
        raise InputError(f"place {place}: there are {len(sites)} hospitals, from 0")
    return sites[place]


@dataclass(frozen=True, kw_only=True)
class VariantList:
    """A file of simulations/conf/lists: rows by name, which of them the others are compared with, what trains."""

    reference: str
    study: str
    rows: Mapping[str, Variant]

    @classmethod
    def read(cls, name: str) -> VariantList:
        """Read the list of this name, or a file of one's own (*.yaml). InputError if there is none or it is odd."""
        path = Path(name) if name.endswith(".yaml") else LISTS / f"{name}.yaml"
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
            common = tuple(raw.get("common", ()))
            rows = {key: Variant.read(row, common) for key, row in raw["variants"].items()}
            found = cls(reference=raw["reference"], study=raw["study"], rows=rows)
        except OSError:
            known = ", ".join(sorted(known.stem for known in LISTS.glob("*.yaml")))
            raise InputError(f"list={name}: no such list; expected {known}, or a file NAME.yaml") from None
        except InputError as error:
            raise InputError(f"list={path}: {error}") from error
        except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
            raise InputError(
                f"list={path}: expected reference, study and variants, each with label and overrides"
                f" ({type(error).__name__}); see {LISTS / 'strategies.yaml'}"
            ) from error
        if "all" in rows:
            raise InputError(f"list={path}: a variant called all, which means every one; expected another name")
        for reference in (found.reference, *(row.reference for row in rows.values() if row.reference)):
            if reference not in rows:
                raise InputError(f"list={path}: reference {reference!r} is none of its variants")
        return found

    def choose(self, names: Sequence[str]) -> list[str]:
        """The variants asked for, in the list's order; InputError names an unknown one."""
        for name in names:
            if name not in self.rows and name != "all":
                raise InputError(f"variants: unknown {name!r}; expected all or some of {', '.join(self.rows)}")
        return [name for name in self.rows if "all" in names or name in names]

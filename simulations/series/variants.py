"""Lists of named variants (simulations/conf/lists): what each row of a series changes, and what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib.resources import files
from pathlib import Path

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
    def read(cls, row: object, common: Sequence[str]) -> Variant:
        """From a list's YAML; ``common``: overrides that come before its own. InputError says what is odd."""
        known = [field.name for field in fields(cls)]
        if not isinstance(row, dict) or not {"label", "overrides"} <= row.keys() <= set(known):
            raise InputError(f"expected label and overrides, and of other keys only {', '.join(known[2:])}")
        plain = dict(row)
        clinic = plain.pop("clinic", None)
        return cls(
            overrides=(*common, *overrides_of(plain.pop("overrides"))),
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


def overrides_of(raw: object) -> tuple[str, ...]:
    """Overrides as a list's YAML has them. InputError: not a list of texts, each KEY=VALUE."""
    if not isinstance(raw, list) or not all(isinstance(one, str) and "=" in one for one in raw):
        raise InputError("overrides: expected a list, as in [train.lr=1e-3], of KEY=VALUE; quote those with brackets")
    return tuple(raw)


def _at(sites: Sequence[SiteConfig], place: int) -> SiteConfig:
    if not 0 <= place < len(sites):
        raise InputError(f"place {place}: there are {len(sites)} hospitals, from 0")
    return sites[place]


@dataclass(frozen=True, kw_only=True)
class VariantList:
    """A file of simulations/conf/lists: rows by name, which of them the others are compared with, what trains.

    ``common``: overrides of every row.
    """

    reference: str
    study: str
    common: tuple[str, ...] = ()
    rows: Mapping[str, Variant]

    @classmethod
    def read(cls, name: str) -> VariantList:
        """Read the list of this name, or a file of one's own (*.yaml). InputError if there is none or it is odd."""
        path = Path(name) if name.endswith(".yaml") else LISTS / f"{name}.yaml"
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
            found = cls._of(raw)
        except OSError:
            known = ", ".join(sorted(known.stem for known in LISTS.glob("*.yaml")))
            raise InputError(f"list={name}: no such list; expected {known}, or a file NAME.yaml") from None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = "" if mark is None else f", line {mark.line + 1}"
            raise InputError(f"list={path}{where}: not YAML; look at brackets, quotes and indents") from error
        except InputError as error:
            raise InputError(f"list={path}: {error}") from error
        rows = found.rows
        if "all" in rows:
            raise InputError(f"list={path}: a variant called all, which means every one; expected another name")
        for reference in (found.reference, *(row.reference for row in rows.values() if row.reference)):
            if reference not in rows:
                raise InputError(f"list={path}: reference {reference!r} is none of its variants")
        return found

    @classmethod
    def _of(cls, raw: object) -> VariantList:
        keys = {"reference", "study", "variants"}
        if not isinstance(raw, dict) or not keys <= raw.keys() <= keys | {"common"}:
            raise InputError(f"expected reference, study, variants, perhaps common; see {LISTS / 'strategies.yaml'}")
        if not isinstance(raw["variants"], dict):
            raise InputError("variants: expected the rows by name")
        common = overrides_of(raw.get("common", []))
        rows = {}
        for key, row in raw["variants"].items():
            if not isinstance(key, str):
                raise InputError(f"row {key}: YAML reads this name as {type(key).__name__}; put it in quotes")
            try:
                rows[key] = Variant.read(row, common)
            except (InputError, TypeError) as error:
                raise InputError(f"row {key}: {error}") from error
        return cls(reference=raw["reference"], study=raw["study"], common=common, rows=rows)

    def check(self, given: Sequence[str]) -> None:
        """InputError where overrides of the command line differ from those of every row, which would overrule them."""
        own = dict(override.split("=", 1) for override in self.common)
        for override in given:
            key, _, value = override.partition("=")
            if own.get(key, value) != value:
                raise InputError(f"{override}: the list has {key}={own[key]} for every row; change it there")

    def choose(self, names: Sequence[str]) -> list[str]:
        """The variants asked for, in the list's order; InputError names an unknown one."""
        for name in names:
            if name not in self.rows and name != "all":
                raise InputError(f"variants: unknown {name!r}; expected all or some of {', '.join(self.rows)}")
        return [name for name in self.rows if "all" in names or name in names]

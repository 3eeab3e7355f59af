"""`simulate ablation`: a list of variants (the paper's components, strategies), each through `simulate run`.

The same study trains each variant and seed, with the same steps, in its own folder OUT/VARIANT/seedN. When the command
is repeated, it reads a finished trial and continues a stopped one from its last round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from rich.progress import Progress

from privacy.wire.messages import EvaluateTask
from shared_model.adapter.manifest import load_adapter, vector_bytes, vector_hash
from shared_model.backbone.prior import prior_hash
from shared_model.backbone.wan_prior import use_checkpoint
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_text
from shared_model.scoring.dosimetry import summarise
from simulations.data.datasets import hospitals
from simulations.reports.ablation import AblationTrial, table_csv, table_markdown
from simulations.reports.results import ADAPTER
from simulations.reports.scoring import overall, score_sites
from simulations.reports.tables import write_json
from simulations.settings.commands import RunSettings, run_settings
from simulations.settings.series import AblationSettings, trial_overrides
from simulations.studies.study import run_studies

RESULT = "ablation.json"


LISTS = Path(str(files("simulations.conf"))) / "lists"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row: how it differs from the others, and what the paper reached (validation MAE in Gy, its score)."""

    label: str
    overrides: tuple[str, ...] = ()
    paper_mae_gy: float | None = None
    paper_score: float | None = None


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
            rows = {
                key: Variant(**{**row, "overrides": (*common, *row["overrides"])})
                for key, row in raw["variants"].items()
            }
            found = cls(reference=raw["reference"], study=raw["study"], rows=rows)
        except OSError:
            known = ", ".join(sorted(known.stem for known in LISTS.glob("*.yaml")))
            raise InputError(f"list={name}: no such list; expected {known}, or a file NAME.yaml") from None
        except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
            raise InputError(
                f"list={path}: expected reference, study and variants, each with label and overrides"
                f" ({type(error).__name__}); see {LISTS / 'strategies.yaml'}"
            ) from error
        if found.reference not in rows:
            raise InputError(f"list={path}: reference {found.reference!r} is none of its variants")
        return found

    def choose(self, names: Sequence[str]) -> list[str]:
        """The variants asked for, in the list's order; InputError names an unknown one."""
        for name in names:
            if name not in self.rows and name != "all":
                raise InputError(f"variants: unknown {name!r}; expected all or some of {', '.join(self.rows)}")
        return [name for name in self.rows if "all" in names or name in names]


def run_ablation(settings: AblationSettings, bars: Progress) -> str:
    """Train the missing trials, write ``out/ablation.md`` and ``.csv`` after each; returns the table."""
    listed = VariantList.read(settings.list)
    names = listed.choose(settings.variants)
    # Check every trial's settings before the first one trains.
    plans = [(name, seed, trial_settings(settings, listed, name, seed)) for name in names for seed in settings.seeds]
    bar = bars.add_task("variants x seeds", total=len(plans), note="")
    trials: list[AblationTrial] = []
    table = ""
    for name, seed, run in plans:
        bars.update(bar, note=f"{name}, seed {seed}")
        trials.append(run_trial(name, seed, run, settings.steps, bars))
        table = table_markdown(listed.rows, listed.reference, trials)
        write_text(settings.out / "ablation.md", table, mode=ORDINARY)
        write_text(settings.out / "ablation.csv", table_csv(trials), mode=ORDINARY)
        for finished in (task for task in bars.task_ids if task != bar):
            bars.update(finished, visible=False)
        bars.advance(bar)
    return f"{table}\ntable     {settings.out / 'ablation.md'}"


def trial_settings(settings: AblationSettings, listed: VariantList, name: str, seed: int) -> RunSettings:
    """The settings of ``simulate run`` of one trial; phantom hospitals are made once for all variants of a seed."""
    out = settings.out / name / f"seed{seed}"
    own = [f"name=ablation-{name}", f"seed={seed}", f"study=[{settings.study or listed.study}]", f"out={out}"]
    # privacy.mode=none: the paper's own comparison, on a researcher's machine
    return run_settings(
        ["privacy.mode=none", *trial_overrides(settings.out, settings.common), *listed.rows[name].overrides, *own]
    )


def run_trial(name: str, seed: int, run: RunSettings, steps: Sequence[int], bars: Progress) -> AblationTrial:
    """Train one variant with one seed, score its adapter at every number of steps; read it if it is there."""
    path = run.out / RESULT
    use_checkpoint(run.prior_path)
    trained = _training_settings(run)
    done: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if done and done["trained"] != trained:
        raise InputError(f"{run.out}: holds a trial with other settings; choose another out")
    if done and [int(count) for count in done["scores"]] == list(steps):
        return AblationTrial.read(name, seed, done)
    if not done:
        run_studies(run, bars)
    spec, vector, _ = load_adapter(run.out / ADAPTER)
    sites = hospitals(run.data, run.partition, run.out, run.federation.seed)
    scores = {}
    for count in steps:
        task = EvaluateTask(
            round=run.federation.rounds.count,
            split="validation",
            sampler_steps=count,
            candidates=run.federation.evaluate.candidates,
            seed=seed,
        )
        of_sites = score_sites(sites, spec, vector, task)
        scores[str(count)] = overall(of_sites)
    done = {
        "trained": trained,
        "adapter_sha256": vector_hash(vector),
        "vector_bytes": vector_bytes(spec),
        "wall_s": json.loads((run.out / "summary.json").read_text())["wall_s"],
        "scores": scores,
        "patients": {
            f"{site} {case}": summarise([score])["dose_score_gy"]
            for site, of in of_sites.items()
            for case, score in of.items()
        },
    }
    write_json(path, done)
    return AblationTrial.read(name, seed, done)


def _training_settings(run: RunSettings) -> dict[str, Any]:
    """All settings that decide the trained adapter and its patients, but not its folder or the number of processes."""
    data = {key: value for key, value in asdict(run.data).items() if key != "root"}
    federation = json.loads(run.federation.to_json())
    prior = prior_hash(run.spec)
    return {
        "federation": federation,
        "prior": prior,
        "study": list(run.study),
        "partition": run.partition,
        "data": data,
    }

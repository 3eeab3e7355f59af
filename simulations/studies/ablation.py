"""`simulate ablation`: the paper's component list at our size, variant by variant through the code of `simulate run`.

The same study trains each variant and seed, with the same steps, in its own folder OUT/VARIANT/seedN. When the command
is repeated, it reads a finished trial and continues a stopped one from its last round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.progress import Progress

from privacy.wire.messages import EvaluateTask
from shared_model.adapter.manifest import load_adapter, vector_bytes, vector_hash
from shared_model.backbone.prior import prior_hash
from shared_model.backbone.wan_prior import use_checkpoint
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_text
from simulations.data.datasets import hospitals
from simulations.reports.ablation import AblationTrial, table_csv, table_markdown
from simulations.reports.results import ADAPTER
from simulations.reports.scoring import overall, score_sites
from simulations.reports.tables import write_json
from simulations.settings.commands import RunSettings, run_settings
from simulations.settings.series import AblationSettings, trial_overrides
from simulations.studies.study import run_studies

RESULT = "ablation.json"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row: how it differs from the full model, and what the paper reached (validation MAE in Gy, its score)."""

    label: str
    overrides: tuple[str, ...] = ()
    paper_mae_gy: float | None = None
    paper_score: float | None = None


# The full model: half of the rounds stage A with its curriculum, then stage B.
FULL = "any2any"
_STAGE_A = ("train.stage=dose", "train.any2any_share=0.5", "train.curriculum=rising")
_DOSE_ONLY = ("train.stage=dose", "train.any2any_share=0.0")
VARIANTS: Mapping[str, Variant] = {
    "scratch": Variant(
        label="random start, dose alone",
        overrides=("model.prior=none", *_DOSE_ONLY),
        paper_mae_gy=2.58,
        paper_score=119.8,
    ),
    "prior": Variant(label="+ prior", overrides=_DOSE_ONLY, paper_mae_gy=2.07, paper_score=135.4),
    FULL: Variant(label="+ Any2Any (the full model)", overrides=_STAGE_A, paper_mae_gy=1.90, paper_score=136.2),
    "no_curriculum": Variant(label="no curriculum", overrides=(*_STAGE_A, "train.curriculum=none")),
    "no_role": Variant(
        label="no role embedding", overrides=(*_STAGE_A, "model.switches.role_embedding=false"), paper_mae_gy=2.01
    ),
    "no_slot": Variant(
        label="no slot axis in RoPE", overrides=(*_STAGE_A, "model.switches.rope=none"), paper_mae_gy=1.96
    ),
    "rope_split": Variant(label="RoPE: slot has pairs of its own", overrides=(*_STAGE_A, "model.switches.rope=split")),
    "rope_naive": Variant(label="RoPE: head split anew in four", overrides=(*_STAGE_A, "model.switches.rope=naive")),
    "shared_patch": Variant(
        label="one patch embedding for all",
        overrides=(*_STAGE_A, "model.switches.patch_embedding=shared"),
        paper_mae_gy=2.02,
    ),
    "condition_causal": Variant(
        label="condition-causal attention (paper: causal, another thing)",
        overrides=(*_STAGE_A, "model.switches.attention=condition-causal"),
        paper_mae_gy=2.15,
    ),
    "lora": Variant(label="LoRA alone", overrides=(*_STAGE_A, "model.adapter=lora"), paper_mae_gy=2.26),
    "lora_embeddings": Variant(
        label="LoRA and embeddings", overrides=(*_STAGE_A, "model.adapter=lora+embeddings")
    ),
    "blocks": Variant(label="blocks and embeddings", overrides=(*_STAGE_A, "model.adapter=blocks")),
    "eps": Variant(label="eps target", overrides=(*_STAGE_A, "model.switches.predicts=eps"), paper_mae_gy=1.93),
    "x0": Variant(label="x0 target", overrides=(*_STAGE_A, "model.switches.predicts=x0"), paper_mae_gy=2.45),
}  # fmt: skip


def choose_variants(names: Sequence[str]) -> list[str]:
    """The variants asked for, in the table's order; InputError names an unknown one."""
    for name in names:
        if name not in VARIANTS and name != "all":
            raise InputError(f"variants: unknown {name!r}; expected all or some of {', '.join(VARIANTS)}")
    return [name for name in VARIANTS if "all" in names or name in names]


def run_ablation(settings: AblationSettings, bars: Progress) -> str:
    """Train the missing trials, write ``out/ablation.md`` and ``.csv`` after each; returns the table."""
    names = choose_variants(settings.variants)
    # Check every trial's settings before the first one trains.
    plans = [(name, seed, trial_settings(settings, name, seed)) for name in names for seed in settings.seeds]
    bar = bars.add_task("variants x seeds", total=len(plans), note="")
    trials: list[AblationTrial] = []
    table = ""
    for name, seed, run in plans:
        bars.update(bar, note=f"{name}, seed {seed}")
        trials.append(run_trial(name, seed, run, settings.steps, bars))
        table = table_markdown(VARIANTS, FULL, trials)
        write_text(settings.out / "ablation.md", table, mode=ORDINARY)
        write_text(settings.out / "ablation.csv", table_csv(trials), mode=ORDINARY)
        for finished in (task for task in bars.task_ids if task != bar):
            bars.update(finished, visible=False)
        bars.advance(bar)
    return f"{table}\ntable     {settings.out / 'ablation.md'}"


def trial_settings(settings: AblationSettings, name: str, seed: int) -> RunSettings:
    """The settings of ``simulate run`` of one trial; phantom hospitals are made once for all variants of a seed."""
    out = settings.out / name / f"seed{seed}"
    own = [f"name=ablation-{name}", f"seed={seed}", f"study=[{settings.study}]", f"out={out}"]
    # privacy.mode=none: the paper's own comparison, on a researcher's machine
    return run_settings(
        ["privacy.mode=none", *trial_overrides(settings.out, settings.common), *VARIANTS[name].overrides, *own]
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
        scores[str(count)] = overall(score_sites(sites, spec, vector, task))
    done = {
        "trained": trained,
        "adapter_sha256": vector_hash(vector),
        "vector_bytes": vector_bytes(spec),
        "wall_s": json.loads((run.out / "summary.json").read_text())["wall_s"],
        "scores": scores,
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

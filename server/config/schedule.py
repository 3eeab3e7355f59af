"""What a round trains and at which learning rate."""

from __future__ import annotations

import math
from dataclasses import replace

from privacy.wire.tasks import EvaluateTask, TrainTask
from server.config.groups import TrainConfig
from server.config.run import RunConfig


def round_lr(train: TrainConfig, round_number: int, rounds: int) -> float:
    """Learning rate of round 1..rounds: half a cosine from ``lr`` down to ``lr * lr_final_fraction``.

    The rounds that train the base follow a separate cosine, which starts at ``base_lr``.
    """
    of_base = round_number <= train.base_rounds
    number, count = (
        (round_number, train.base_rounds) if of_base else (round_number - train.base_rounds, rounds - train.base_rounds)
    )
    done = (number - 1) / max(1, count - 1)
    floor = train.lr_final_fraction
    return (train.base_lr if of_base else train.lr) * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * done)))


def round_stage(train: TrainConfig, round_number: int, rounds: int) -> tuple[str, float]:
    """(stage, least probability of a visible condition) of round 1..rounds.

    The first ``base_rounds`` are stage ``base``. Stage A follows, then the stage that ``train.stage`` names.
    The paper says only that a curriculum raises the number of visible conditions. Here the share of visible conditions
    is uniform from a least value to 1, and the least value rises linearly over stage A from 0 to 1: half of the
    conditions on average in its first round, all of them in its last.
    """
    if round_number <= train.base_rounds:
        return "base", 0.0
    round_number, rounds = round_number - train.base_rounds, rounds - train.base_rounds
    stage_a = rounds if train.stage == "any2any" else round(train.any2any_share * rounds)
    if round_number > stage_a:
        return train.stage, 0.0
    rising = train.curriculum == "rising"
    return "any2any", (round_number - 1) / (stage_a - 1) if rising and stage_a > 1 else float(rising)


def train_task(config: RunConfig, number: int, privacy: str, masks: str = "") -> TrainTask:
    """What round ``number`` asks of each site; ``privacy`` and ``masks``: terms of the run's noise and exact sums."""
    train, count = config.train, config.rounds.count
    stage, least_visible = round_stage(train, number, count)
    return TrainTask(
        round=number,
        rounds=count,
        local_steps=train.local_steps,
        batch_size=train.batch_size,
        lr=round_lr(train, number, count),
        seed=config.seed,
        stage=stage,
        grad_clip=train.grad_clip,
        weight_decay=train.weight_decay,
        least_visible=least_visible,
        privacy=privacy,
        masks=masks,
        proximal=train.proximal,
        control=train.control,
        personal=train.personal,
    )


def evaluate_task(config: RunConfig, number: int, masks: str) -> EvaluateTask:
    """What scoring the vector after round ``number`` asks of each site; ``masks``: terms of exact sums."""
    how = config.evaluate
    task = EvaluateTask(
        round=number,
        sampler_steps=how.sampler_steps,
        candidates=how.candidates,
        seed=config.seed,
        masks=masks,
        personal=config.train.personal,
    )
    if not how.tune_steps:
        return task
    return replace(task, tune_steps=how.tune_steps, tune_lr=how.tune_lr, tune_batch=config.train.batch_size)

"""What a coordinator asks in a round, with few steps, for tests of training at a site."""

from typing import Any

from privacy.wire.messages import TrainTask


def train_task(**changes: Any) -> TrainTask:
    """Round 1 of 2 of stage dose; ``changes`` replace its fields."""
    fields = {
        "round": 1, "rounds": 2, "local_steps": 3, "batch_size": 2, "lr": 1e-3, "seed": 0, "stage": "dose",
        "grad_clip": 1.0, "weight_decay": 0.0,
    }  # fmt: skip
    return TrainTask(**{**fields, **changes})

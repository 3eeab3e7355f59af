"""Settings of a private alignment, `client align --set KEY=VALUE`."""

from __future__ import annotations

from dataclasses import dataclass, fields

from shared_model.adapter.private import PrivateShape
from shared_model.core.errors import InputError
from shared_model.diffusion.nft import FORMS


@dataclass(frozen=True, kw_only=True)
class AlignSettings:
    """How to align; docs/results/scorecard_rl.md names those that it was made with.

    ``candidates`` K. ``guided``: weight of the distance to the shared dose steered to the card (guide.py), where a
    trade-off network knows the site of the body. ``candidate_steps``: of DDIM, where the sampler draws them
    (candidates.py). ``form``: x0 or velocity. ``beta``: how far the implicit policies lie from the old one.
    ``lambda_diffusion``: weight of the diffusion loss on the reference. ``kl``: weight of the mean squared distance
    to the shared model's velocities: the divergence between two Gaussian policies of one width, as in DiffusionNFT.
    ``anchor``: points that one Gy of mean absolute error costs. ``penalty``: how many times its weight a criterion
    loses for each span of its map beyond its broken hard constraint. ``batch``: patients a step. ``old_most``: the
    most that the old policy keeps of itself in a step (it rises by 0.001 a step). ``smooth``: the same of the mean
    of the weights, which is what is scored and kept. ``patience``: epochs without a better held-back score.
    ``mae_drift``: share by which the held-back patients' error may rise, and that of all patients. ``rank``,
    ``alpha``, ``attention``: of the private adapter (shared_model/adapter/private.py). ``predict_steps`` and
    ``predict_candidates``: how held-back patients are predicted, as the site will predict.
    """

    epochs: int = 3
    candidates: int = 16
    guided: float = 3.0
    candidate_steps: int = 2
    form: str = "x0"
    beta: float = 0.1
    lambda_diffusion: float = 0.05
    kl: float = 0.0
    anchor: float = 15.0
    penalty: float = 5.0
    lr: float = 1e-3
    batch: int = 1
    old_most: float = 0.5
    smooth: float = 0.9
    patience: int = 2
    mae_drift: float = 0.01
    rank: int = 16
    alpha: int = 32
    attention: str = "condition-causal"
    seed: int = 0
    predict_steps: int = 1
    predict_candidates: int = 1

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise InputError(f"form={self.form!r}: expected {' or '.join(FORMS)}")
        limits = {"epochs": (0, 10_000), "candidates": (2, 64), "candidate_steps": (2, 100), "batch": (1, 64)}
        limits |= {"patience": (1, 10_000), "rank": (1, 256), "alpha": (1, 65_536)}
        limits |= {"predict_steps": (1, 1000), "predict_candidates": (1, 64)}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "float" and (not isinstance(value, int | float) or isinstance(value, bool)):
                raise InputError(f"{field.name}={value!r}: expected a number")
            if field.type == "int" and (not isinstance(value, int) or isinstance(value, bool)):
                raise InputError(f"{field.name}={value!r}: expected a whole number")
        for key, (low, high) in limits.items():
            if not low <= getattr(self, key) <= high:
                raise InputError(f"{key}={getattr(self, key)}: expected {low} to {high}")
        for key in ("guided", "lambda_diffusion", "kl", "anchor", "penalty", "mae_drift"):
            if not 0 <= getattr(self, key) < 1e6:
                raise InputError(f"{key}={getattr(self, key)}: expected 0 or more")
        if not 0 < self.beta <= 1 or not 0 < self.lr < 1 or not 0 <= self.old_most < 1 or not 0 <= self.smooth < 1:
            raise InputError("expected beta in (0, 1], lr in (0, 1), old_most and smooth in [0, 1)")

    @property
    def shape(self) -> PrivateShape:
        """The shape of the private adapter."""
        return PrivateShape(rank=self.rank, alpha=self.alpha, attention=self.attention)

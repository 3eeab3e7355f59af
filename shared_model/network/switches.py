"""The model's switches: one for each row of the paper's ablation table, and some that affect only time or memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from shared_model.core.errors import InputError

ROPES: tuple[str, ...] = ("overlay", "split", "naive", "none")
PATCH_EMBEDDINGS: tuple[str, ...] = ("modality", "shared")
ATTENTIONS: tuple[str, ...] = ("full", "condition-causal")
PREDICTIONS: tuple[str, ...] = ("v", "eps", "x0")

_WORDS: Mapping[str, tuple[str, ...]] = {
    "rope": ROPES,
    "patch_embedding": PATCH_EMBEDDINGS,
    "attention": ATTENTIONS,
    "predicts": PREDICTIONS,
}


@dataclass(frozen=True, kw_only=True)
class Switches:
    """How the model differs from the default, which is the paper's model. Raises InputError on an unknown word.

    ``rope``: how the slot axis enters the rotary phases (tokens.rope_phases). ``none`` keeps the three spatial axes.
    ``patch_embedding``: one per modality, or one ``shared`` by all. Each modality always has its own head.
    ``role_embedding``: whether a learned embedding tells target and conditions apart. Without it the noise time still
    tells them apart, since conditions are at t = 0.
    ``attention``: ``condition-causal`` lets conditions see only conditions, so that their keys and values can be kept
    over sampling steps and candidates. It is not the token-causal attention of the paper's ablation.
    ``predicts``: how the network's output is read (diffusion.schedule.recover).
    ``checkpointing``: compute the blocks twice in training instead of keeping their activations. The result is the
    same.
    """

    rope: str = "overlay"
    patch_embedding: str = "modality"
    role_embedding: bool = True
    attention: str = "full"
    predicts: str = "v"
    checkpointing: bool = False

    def __post_init__(self) -> None:
        for key, words in _WORDS.items():
            if getattr(self, key) not in words:
                raise InputError(f"model.switches.{key}={getattr(self, key)!r}: expected one of {', '.join(words)}")
        for key in ("role_embedding", "checkpointing"):
            if not isinstance(getattr(self, key), bool):
                raise InputError(f"model.switches.{key}={getattr(self, key)!r}: expected true or false")

    def changed(self) -> dict[str, str | bool]:
        """The switches that are not at their default, in the order of their names."""
        default = Switches()
        names = sorted(f.name for f in fields(self))
        return {name: getattr(self, name) for name in names if getattr(self, name) != getattr(default, name)}

    @classmethod
    def from_raw(cls, raw: object) -> Switches:
        """Read a JSON object. A switch that it does not name is at its default. InputError for an unknown name."""
        if not isinstance(raw, dict):
            raise InputError("model spec: switches: expected a mapping of switches to their values")
        known = [f.name for f in fields(cls)]
        for key in raw:
            if key not in known:
                raise InputError(f"model spec: unknown key 'switches.{key}'; expected {', '.join(known)}")
        return cls(**raw)

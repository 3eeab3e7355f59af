"""Who attends to whom. An ``Attend`` gets queries, keys and values (B, heads, L, d) and returns (B, heads, L, d).

Condition-causal attention makes the conditions' keys and values independent of the noisy target and of the noise
time: computed once (``Memory``), they serve every sampling step and every candidate exactly.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
PLAIN_ATTENTION_TOKENS = 1024


def attend_all(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every token attends to every token. On a CPU in bf16, the plain product is used for short sequences.

    There the fused kernel makes a training step of the small prior (896 tokens) 1.5 times slower; for long sequences
    it is the fast and the lean one.
    """
    # Keys decide: there are never fewer of them than queries.
    short = k.shape[-2] <= PLAIN_ATTENTION_TOKENS
    if short and q.dtype == torch.bfloat16 and q.device.type == "cpu":
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        out: Tensor = scores.softmax(-1) @ v
        return out
    return F.scaled_dot_product_attention(q, k, v)


def condition_causal(conditions: int) -> Attend:
    """The first ``conditions`` tokens attend among themselves, the target's tokens after them to all."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen = attend_all(q[:, :, :conditions], k[:, :, :conditions], v[:, :, :conditions])
        return torch.cat((seen, attend_all(q[:, :, conditions:], k, v)), dim=2)

    return attend if conditions else attend_all


class LayerMemory:
    """Keys and values of the conditions in one block, (B, heads, L, d)."""

    def __init__(self) -> None:
        self.k: Tensor | None = None
        self.v: Tensor | None = None

    def store(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend among the conditions, and keep their keys and values."""
        self.k, self.v = k, v
        return attend_all(q, k, v)

    def recall(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from the target's tokens to the kept conditions and to themselves; one patient, any batch."""
        if self.k is None or self.v is None:
            raise ValueError("nothing was stored in this memory")
        batch = q.shape[0]
        k, v = (torch.cat((old.expand(batch, -1, -1, -1), new), 2) for old, new in ((self.k, k), (self.v, v)))
        return attend_all(q, k, v)


# One LayerMemory a block; empty where there are no conditions.
Memory = list[LayerMemory]

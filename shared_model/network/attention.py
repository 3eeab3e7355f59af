"""Which tokens attend to which. An ``Attend`` gets queries, keys and values (B, heads, L, d), returns (B, heads, L, d).

With condition-causal attention the conditions' keys and values do not depend on the noisy target or the noise time. So
they are computed once (``Memory``) and are exact for every sampling step and every candidate.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
PLAIN_ATTENTION_TOKENS = 1024


def attend_all(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every token attends to every token. Short sequences in bf16 on a CPU use the plain product.

    There the fused kernel makes a training step of the small prior (896 tokens) 1.5 times slower. For long sequences
    the fused kernel is faster and needs less memory.
    """
    # The number of keys decides, since there are never fewer keys than queries.
    short = k.shape[-2] <= PLAIN_ATTENTION_TOKENS
    if short and q.dtype == torch.bfloat16 and q.device.type == "cpu":
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        out: Tensor = scores.softmax(-1) @ v
        return out
    return F.scaled_dot_product_attention(q, k, v)


def condition_causal(conditions: int) -> Attend:
    """The first ``conditions`` tokens attend only to each other. The target's tokens follow and attend to all."""

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
        """Attend from the target's tokens to the stored conditions and to themselves.

        The conditions are of one patient; the batch of targets may have any size. ValueError if nothing was stored.
        """
        if self.k is None or self.v is None:
            raise ValueError("nothing was stored in this memory")
        batch = q.shape[0]
        k, v = (torch.cat((old.expand(batch, -1, -1, -1), new), 2) for old, new in ((self.k, k), (self.v, v)))
        return attend_all(q, k, v)


# One LayerMemory for each block. Empty if there are no conditions.
Memory = list[LayerMemory]

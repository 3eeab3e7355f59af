import pytest
import torch
import torch.nn.functional as F

from shared_model.network.attention import PLAIN_ATTENTION_TOKENS, Attend, LayerMemory, attend_all, condition_causal

SEEN = 24


def remembering(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    memory = LayerMemory()
    seen = memory.store(q[:, :, :SEEN], k[:, :, :SEEN], v[:, :, :SEEN])
    return torch.cat((seen, memory.recall(q[:, :, SEEN:], k[:, :, SEEN:], v[:, :, SEEN:])), dim=2)


def draw(tokens: int = 40) -> list[torch.Tensor]:
    return [torch.randn(1, 2, tokens, 24, generator=torch.Generator().manual_seed(i)) for i in range(3)]


@pytest.mark.parametrize("attend", [attend_all, condition_causal(SEEN), remembering])
def test_plain_attention_in_bf16_is_the_fused_one(attend: Attend) -> None:
    q, k, v = draw()
    mask = torch.ones(40, 40, dtype=torch.bool)
    if attend is not attend_all:
        mask[:SEEN, SEEN:] = False
    exact = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    plain = attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert float((plain.float() - exact).abs().max()) < 0.02
    torch.testing.assert_close(attend(q, k, v), exact, atol=1e-6, rtol=0)


def test_the_fused_kernel_serves_long_sequences_and_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    fused = F.scaled_dot_product_attention

    def counted(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        lengths.append(k.shape[-2])
        return fused(q, k, v)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    for tokens, precision in ((40, torch.bfloat16), (40, torch.float32), (PLAIN_ATTENTION_TOKENS + 1, torch.bfloat16)):
        q, k, v = (u.to(precision) for u in draw(tokens))
        attend_all(q, k, v)
        condition_causal(SEEN)(q, k, v)
    long = PLAIN_ATTENTION_TOKENS + 1
    assert lengths == [40, SEEN, 40, long, long]

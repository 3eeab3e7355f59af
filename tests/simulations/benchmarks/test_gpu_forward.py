import math

import pytest
import torch

from shared_model.backbone.wan import WAN_1_3B
from shared_model.network.spec import Architecture
from simulations.benchmarks.gpu_forward import LATENT_GRID, main, measure, random_model, sample, tflop

TINY = Architecture(
    dim=64, heads=2, ffn_dim=96, layers=2, freq_dim=32, latent_channels=16, patch=(1, 2, 2), text_constant=True
)


def test_the_papers_roi_is_two_thousand_tokens_a_modality() -> None:
    assert math.prod(LATENT_GRID) // 4 == 2000


def test_it_measures_a_small_model_on_any_device() -> None:
    numbers = measure(TINY, (2, 4, 4), steps=2, candidates=2, device=torch.device("cpu"))
    assert numbers["tokens"] == 7 * 8
    assert float(numbers["wall_s"]) > 0


def test_the_whole_shape_runs_where_shapes_alone_are_computed() -> None:
    """On the meta device a constant that stays on the CPU fails as on a GPU. Of the 8 GB weights take less than 3."""
    meta = torch.device("meta")
    model = random_model(WAN_1_3B, meta)
    stored = sum(p.numel() * p.element_size() for p in model.parameters())
    assert 2e9 < stored < 3e9
    drawn = sample(model.float(), LATENT_GRID, steps=2, candidates=2, device=meta)
    assert drawn.shape == (2, 16, *LATENT_GRID)
    # Two for each weight and token, and full attention. The last block is asked for the target's tokens alone.
    n, m, wide, inner = 14_000, 2_000, WAN_1_3B.dim, WAN_1_3B.ffn_dim
    whole = 2 * n * (4 * wide * wide + 2 * wide * inner) + 4 * n * n * wide
    last = 4 * n * wide * wide + 2 * m * (2 * wide * wide + 2 * wide * inner) + 4 * m * n * wide
    expected = 10 * ((WAN_1_3B.layers - 1) * whole + last) / 1e12
    assert tflop(WAN_1_3B, LATENT_GRID, steps=10, candidates=1) == pytest.approx(expected, rel=0.005)


def test_matrices_are_bfloat16_and_the_rest_float32() -> None:
    model = random_model(TINY, torch.device("cpu"))
    kept = {name for name, p in model.named_parameters() if p.dtype == torch.float32}
    assert {name.split(".")[0] for name in kept} == {"time_embedder", "role", "blocks", "table_out"}
    inside = {name.split(".", 2)[2] for name in kept if name.startswith("blocks.")}
    assert inside == {"attn1.norm_q.weight", "attn1.norm_k.weight", "table.weight", "null.weight"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_it_refuses_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["gpu_forward"])
    assert main() == 2
    said = capsys.readouterr()
    assert "finds no CUDA device" in said.err
    assert said.out == ""

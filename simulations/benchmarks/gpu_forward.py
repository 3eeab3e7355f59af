"""One patient at the paper's size on a GPU: Wan 2.1 1.3B's shape with random weights, ROI 97x128x160, bf16, 10 steps.

``python -m simulations.benchmarks.gpu_forward [--steps 10] [--candidates 1] [--json]``, or ``make bench-gpu``. Full
attention over 7 modalities of 2,000 tokens. The paper (arXiv 2605.09622) reports 10 to 16 s and 8.7 GB on one H100; the
goals here are 8 s and 8 GB. Times the transformer alone: the autoencoder runs once a patient, outside. ``tflop`` is the
arithmetic of it, counted on torch's meta device, where a test also runs the whole shape.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from contextlib import nullcontext

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from shared_model.backbone.wan import WAN_1_3B, WanDiT
from shared_model.network.schedule import sample_ddim
from shared_model.network.spec import Architecture
from shared_model.patient.case import CONDITIONS

GOAL_S = 8.0
GOAL_GB = 8.0
ROI = (97, 128, 160)
# The autoencoder makes 4k + 1 slices k + 1, and 8x8 voxels one (shared_model/backbone/wan_vae.py).
LATENT_GRID = ((ROI[0] - 1) // 4 + 1, ROI[1] // 8, ROI[2] // 8)


def random_model(arch: Architecture, device: torch.device) -> WanDiT:
    """Random weights; matrices in bfloat16 but for the time embedder's, all else float32, as diffusers keeps them."""
    with torch.device("meta"):
        model = WanDiT(arch)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv3d) and not name.startswith("time_embedder"):
            module.to(torch.bfloat16)
    model.to_empty(device=device)
    # The meta device, where shapes alone are computed, draws no numbers.
    generator = None if device.type == "meta" else torch.Generator(device).manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(0.0, 0.02, generator=generator)
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def sample(model: WanDiT, grid: tuple[int, int, int], steps: int, candidates: int, device: torch.device) -> Tensor:
    """Dose latents (K, C, z, y, x) from noise given all six conditions."""
    generator = torch.Generator().manual_seed(1)
    shape = (candidates, model.arch.latent_channels, *grid)
    conditions = {m: torch.randn(shape, generator=generator).to(device) for m in CONDITIONS}
    noise = torch.randn(shape, generator=generator).to(device)

    def velocity(x_t: Tensor, t_b: Tensor) -> Tensor:
        # The weights are bf16, so this runs in it on any device; but the meta device knows no autocast.
        with nullcontext() if device.type == "meta" else torch.autocast(device.type, torch.bfloat16):
            return torch.as_tensor(model(conditions, "dose", x_t, t_b))

    return sample_ddim(velocity, noise, steps)


def tflop(arch: Architecture, grid: tuple[int, int, int], steps: int, candidates: int) -> float:
    """10^12 additions and multiplications of one sampling."""
    meta = torch.device("meta")
    model = random_model(arch, meta).float()  # the meta device knows no autocast
    with FlopCounterMode(display=False) as counter:
        sample(model, grid, 1, candidates, meta)
    return float(counter.get_total_flops()) * steps / 1e12


def measure(
    arch: Architecture, grid: tuple[int, int, int], steps: int, candidates: int, device: torch.device
) -> dict[str, float | str]:
    """Seconds of one sampling after a warm-up step, and the peak memory of it all, weights included."""
    model = random_model(arch, device)
    sample(model, grid, 1, candidates, device)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    drawn = sample(model, grid, steps, candidates, device)
    if cuda:
        torch.cuda.synchronize(device)
    wall_s = time.perf_counter() - started
    assert torch.isfinite(drawn).all()
    tokens = (len(CONDITIONS) + 1) * math.prod(g // p for g, p in zip(grid, arch.patch, strict=True))
    return {
        "device": torch.cuda.get_device_name(device) if cuda else device.type,
        "torch": torch.__version__,
        "parameters_m": round(sum(p.numel() for p in model.parameters()) / 1e6, 1),
        "tokens": tokens,
        "attention": "full",
        "tflop": round(tflop(arch, grid, steps, candidates), 1),
        "steps": steps,
        "candidates": candidates,
        "wall_s": round(wall_s, 3),
        "s_per_step": round(wall_s / steps, 3),
        "peak_gb": round(torch.cuda.max_memory_allocated(device) / 1e9, 2) if cuda else math.nan,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--candidates", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args()
    console = Console(stderr=True)
    if not torch.cuda.is_available():
        console.print(
            f"bench-gpu: error: torch {torch.__version__} finds no CUDA device; this benchmark needs an NVIDIA GPU and "
            "a torch built for it",
            soft_wrap=True,
            highlight=False,
        )
        return 2
    numbers = measure(WAN_1_3B, LATENT_GRID, args.steps, args.candidates, torch.device("cuda"))
    numbers |= {"goal_s": GOAL_S, "goal_gb": GOAL_GB}
    if args.json:
        print(json.dumps(numbers))
        return 0
    table = Table(title=f"Sampling at {'x'.join(map(str, ROI))}, Wan 2.1 1.3B's shape, bf16")
    table.add_column("what")
    table.add_column("value", justify="right")
    for name, value in numbers.items():
        table.add_row(name, str(value))
    Console().print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

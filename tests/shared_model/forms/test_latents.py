from dataclasses import replace

import torch

from shared_model.diffusion.modalities import Example
from shared_model.forms.interface import Drawing
from shared_model.forms.latents import LatentForm
from shared_model.network.dit import Any2AnyDiT
from shared_model.network.spec import Architecture, ModelSpec
from shared_model.patient.case import MODALITIES
from shared_model.patient.geometry import Grid

SMALL = Architecture(dim=48, heads=2, ffn_dim=64, layers=2, freq_dim=32, latent_channels=32, patch=(1, 2, 2))
FORM = LatentForm(ModelSpec(shape=(8, 16, 16), precision="fp32"))
HOW = Drawing(steps=4)


def made() -> Any2AnyDiT:
    torch.manual_seed(0)
    return Any2AnyDiT(SMALL).eval()


def latents(*shape: int, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(32, *shape, generator=generator) for name in names}


def patient(*names: str) -> Example:
    return Example(case_id="p", grid=Grid((8, 16, 16), (3.0, 3.0, 3.0)), latents=latents(4, 4, 4, names=names))


def test_any_modality_from_whatever_is_there() -> None:
    model = made()
    for target in MODALITIES:
        for names in (("body",), ("body", "ct", "dose"), MODALITIES):
            volumes = FORM.draw(model, patient(*names), HOW, candidates=2, seed=0, target=target)
            assert volumes.shape == (2, 8, 16, 16)
            assert not torch.equal(volumes[0], volumes[1])


def test_the_target_itself_is_never_looked_at() -> None:
    whole = patient(*MODALITIES)
    for target in ("dose", "ct"):
        other = replace(whole, latents={**whole.latents, target: whole.latents[target] + 1})
        a, b = (FORM.draw(made(), p, HOW, candidates=1, seed=1, target=target) for p in (whole, other))
        assert torch.equal(a, b)


def test_seeds_patients_and_targets_draw_their_own_noise_and_candidates_are_a_series() -> None:
    model, one = made(), patient("body", "ct")
    first = FORM.draw(model, one, HOW, candidates=4, seed=1)
    torch.testing.assert_close(FORM.draw(model, one, HOW, candidates=1, seed=1)[0], first[0], atol=1e-5, rtol=0)
    assert torch.equal(FORM.draw(model, one, HOW, candidates=4, seed=1), first)
    for other in (FORM.draw(model, one, HOW, candidates=1, seed=2),
                  FORM.draw(model, replace(one, case_id="q"), HOW, candidates=1, seed=1)):  # fmt: skip
        assert not torch.allclose(other[0], first[0], atol=1e-3)

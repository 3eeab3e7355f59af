"""Golden values of the default architecture: published adapters and running federations depend on them."""

import hashlib

import torch

from shared_model.prior import load_prior
from shared_model.spec import ModelSpec

LAYOUT = "885537162db70c82c8c6cfc426700876eb0e9273e2a8137629df878899713de8"
AT = [0, 1, 500, 1000, 1500, 2047]
VALUES = [-1.12824, -0.14493, -0.66446, -0.46412, -0.56142, 0.44800]


def wave(rate: float) -> torch.Tensor:
    return torch.sin(torch.arange(32 * 4 * 4 * 4, dtype=torch.float32) * rate).view(1, 32, 4, 4, 4)


def test_names_and_shapes_of_the_parameters() -> None:
    state = load_prior(ModelSpec(prior="none")).state_dict()
    names = ";".join(f"{name}:{tuple(tensor.shape)}" for name, tensor in state.items())
    assert hashlib.sha256(names.encode()).hexdigest() == LAYOUT


@torch.no_grad()
def test_output_of_a_seeded_model() -> None:
    model = load_prior(ModelSpec(prior="none", init_seed=0)).eval()
    out = model({"ptv": wave(0.3), "ct": wave(0.7)}, "dose", wave(1.1), torch.tensor([0.6])).flatten()
    torch.testing.assert_close(out[AT], torch.tensor(VALUES), atol=1e-4, rtol=0)
    assert abs(float(out.abs().mean()) - 0.481875) < 1e-4

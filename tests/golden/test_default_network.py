"""The default network of size small must not drift: studies, priors and adapters of it depend on names and numbers."""

import hashlib

import pytest
import torch

from shared_model.adapter.manifest import initial_vector, manifest_hash
from shared_model.backbone.prior import prior_hash
from shared_model.backbone.pyramid_prior import pyramid_network
from shared_model.channels.volumes import PatientChannels, patient_channels
from shared_model.network.device import full_precision
from shared_model.network.pyramid import PyramidDiT
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import CONDITIONS
from shared_model.training.step import conditions_of
from shared_model.training.views import View, seen_from
from tests.builders.small_case import small_case

SPEC = ModelSpec(network="pyramid", size="small", prior="none", init_seed=0, precision="fp32")
LAYOUT = "f352c063d395bd2824f441806c0b43029e6511a8f5dd1b5f11b552faba804468"
START = [0.00047098, 0.03939508, -0.00046793, 0.00037568, 0.0, 0.00112669, -0.00524868]
KEYS = [-0.001685, 1.001114, 0.602347, 0.596716, 1.009465, 0.661340, 0.421955]
# Float32 sums differ between processors by some 1e-6 of answers of about 1; a change of the network by far more.
WITHIN = 1e-4


@pytest.fixture(scope="module")
def network() -> PyramidDiT:
    """The random start, with its zeros moved: a film, an embedding or a second convolution would say nothing."""
    network = pyramid_network(SPEC).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.03 * torch.cos(torch.arange(parameter.numel())).view_as(parameter)
    return network


@pytest.fixture(scope="module")
def patient() -> PatientChannels:
    return patient_channels(small_case())


def fingerprint(volume: torch.Tensor) -> list[float]:
    flat = volume.flatten()
    return [float(v) for v in (flat.mean(), flat.std(), *flat[:: flat.numel() // 5][:5])]


@torch.no_grad()
def answer(network: PyramidDiT, patient: PatientChannels, target: str) -> torch.Tensor:
    """Two noise times in closed form of the state, so that no generator has a part in it."""
    sight, names = seen_from(patient, View()), [m for m in CONDITIONS if m != target]
    cpu = torch.device("cpu")
    given = conditions_of(sight, patient.layout, names, cpu, torch.float32)
    channels = len(patient.layout.target(target))
    state = torch.sin(torch.arange(2 * channels * sight.stack[..., 0].numel()) / 7.0)
    x_t = state.view(2, channels, *sight.stack.shape[:3])
    with full_precision(cpu):
        found: torch.Tensor = network(given, target, x_t, torch.tensor([1.0, 0.4]))
    return found


@pytest.mark.parametrize(
    ("target", "golden"),
    [
        ("dose", [0.206696, 0.039777, 0.209774, 0.205995, 0.215967, 0.179145, 0.226862]),
        ("oar", [0.179768, 0.245662, -0.038390, 0.419785, 0.530403, -0.141303, 0.159135]),
    ],
)
def test_forward_pass(network: PyramidDiT, patient: PatientChannels, target: str, golden: list[float]) -> None:
    assert fingerprint(answer(network, patient, target)) == pytest.approx(golden, abs=WITHIN)


@torch.no_grad()
def test_keys_of_the_conditions_at_the_coarse_level(network: PyramidDiT, patient: PatientChannels) -> None:
    """Phases in millimetres hardly show in the dose of weights that learned nothing; here they do."""
    sight = seen_from(patient, View())
    given = conditions_of(sight, patient.layout, CONDITIONS, torch.device("cpu"), torch.float32)
    keys = network.remember(given).memory[0].k
    assert keys is not None
    assert fingerprint(keys) == pytest.approx(KEYS, abs=WITHIN)


def test_names_and_shapes_of_the_parameters() -> None:
    state = pyramid_network(SPEC).state_dict()
    names = ";".join(f"{name}:{tuple(tensor.shape)}" for name, tensor in state.items())
    assert hashlib.sha256(names.encode()).hexdigest() == LAYOUT


def test_what_travels_and_its_identity() -> None:
    vector = initial_vector(SPEC)
    assert SPEC.to_json() == (
        '{"adapter":"full","alpha":16,"init_seed":0,"network":"pyramid","precision":"fp32","prior":"none","rank":16,'
        '"size":"small"}'
    )
    assert prior_hash(SPEC) == "none:0"
    assert vector.size == 1_732_493
    assert fingerprint(torch.from_numpy(vector)) == pytest.approx(START, abs=1e-6)
    assert manifest_hash(SPEC) == "9fcedd5302bd5dd32a784d1695a56edadc70fa1281375a688a2df7c9331b7a23"

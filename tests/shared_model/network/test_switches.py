import json

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

from shared_model.adapter.manifest import initial_vector, manifest_hash
from shared_model.adapter.shared import adapted_model, trainable
from shared_model.backbone.prior import fitted_state
from shared_model.core.errors import InputError
from shared_model.network.dit import Any2AnyDiT
from shared_model.network.spec import Architecture, ModelSpec
from shared_model.network.switches import Switches
from shared_model.network.tokens import rope_phases
from shared_model.patient.case import MODALITIES

SMALL = Architecture(dim=48, heads=2, ffn_dim=64, layers=2, freq_dim=32, latent_channels=8, patch=(1, 2, 2))
NOISY, T = torch.randn(2, 8, 4, 4, 4, generator=torch.Generator().manual_seed(2)), torch.tensor([0.3, 0.9])


def made(**switches: object) -> Any2AnyDiT:
    torch.manual_seed(0)
    model = Any2AnyDiT(SMALL, Switches(**switches)).eval()  # type: ignore[arg-type]
    if model.role is not None:
        torch.nn.init.normal_(model.role.weight, generator=torch.Generator().manual_seed(3))
    return model


def given(*names: str, batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(batch, 8, 4, 4, 4, generator=generator) for name in names}


# ---- the switches in the spec


def test_every_switch_travels_and_a_default_one_is_not_written() -> None:
    changed = {
        "rope": "split", "patch_embedding": "shared", "role_embedding": False, "attention": "condition-causal",
        "predicts": "eps", "checkpointing": True,
    }  # fmt: skip
    assert Switches(**changed).changed() == changed
    for key, value in changed.items():
        spec = ModelSpec(prior="none", switches=Switches(**{key: value}))
        assert json.loads(spec.to_json())["switches"] == {key: value}
        assert ModelSpec.from_json(spec.to_json()) == spec
        assert manifest_hash(spec) != manifest_hash(ModelSpec(prior="none"))
    assert "switches" not in ModelSpec().to_json()
    assert ModelSpec.from_json('{"switches":{"rope":"overlay"}}') == ModelSpec()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"switches":{"rope":"spiral"}}', "switches.rope='spiral': expected one of overlay"),
        ('{"switches":{"role_embedding":1}}', "switches.role_embedding=1: expected true or false"),
        ('{"switches":{"predicts":null}}', "switches.predicts"),
        ('{"switches":{"colour":"red"}}', "switches.colour"),
        ('{"switches":[]}', "switches is list"),
    ],
)
def test_a_bad_switch_is_named(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        ModelSpec.from_json(text)
    assert words in str(caught.value)


# ---- rotary phases


@pytest.mark.parametrize("kind", ["overlay", "none"])
def test_phases_inside_any_slot_are_those_of_diffusers(kind: str) -> None:
    """Relative phases are all that attention sees: every slot, less its first token, equals Wan's own."""
    grid, head_dim = (3, 4, 5), 64
    cos, sin = WanRotaryPosEmbed(head_dim, (1, 1, 1), 32)(torch.zeros(1, 4, *grid))
    wan = torch.complex(cos.flatten(0, 2)[:, ::2].double(), sin.flatten(0, 2)[:, ::2].double())
    n = 3 * 4 * 5
    phases = rope_phases(list(range(7)), grid, head_dim, kind).reshape(7, n, -1)
    ours = torch.polar(torch.ones_like(phases), phases - phases[:, :1])
    torch.testing.assert_close(ours, wan[None].expand_as(ours), atol=1e-6, rtol=0)


def test_split_gives_the_overlaid_pairs_to_the_slot_alone() -> None:
    n = 3 * 4 * 5
    none, overlay, split = (rope_phases([0, 3], (3, 4, 5), 64, kind) for kind in ("none", "overlay", "split"))
    slot_pairs = (overlay[n:] - overlay[:n])[0] != 0
    assert 0 < int(slot_pairs.sum()) < 32
    assert torch.equal(split[:, ~slot_pairs], none[:, ~slot_pairs])
    assert torch.equal(split[:n, slot_pairs], torch.zeros(n, int(slot_pairs.sum()), dtype=torch.float64))
    torch.testing.assert_close(split[n:] - split[:n], overlay[n:] - overlay[:n])


def test_naive_changes_frequencies_and_none_has_no_slots() -> None:
    n = 3 * 4 * 5
    none, naive = (rope_phases([0, 3], (3, 4, 5), 64, kind) for kind in ("none", "naive"))
    assert torch.equal(none[:n], none[n:])
    assert not torch.equal(naive[:n], naive[n:])
    assert naive.shape == none.shape
    own = set(none[:n].flatten().tolist())
    assert not set(naive[:n].flatten().tolist()) <= own


# ---- embeddings


def test_a_shared_embedding_starts_at_the_mean_of_the_prior_and_leaves_heads_apart() -> None:
    state = made().state_dict()
    model = Any2AnyDiT(SMALL, Switches(patch_embedding="shared", role_embedding=False))
    model.load_state_dict(fitted_state(state, model.switches))
    assert list(model.patch) == ["shared"]
    assert list(model.head) == list(MODALITIES)
    mean = torch.stack([state[f"patch.{m}.weight"] for m in MODALITIES]).mean(0)
    torch.testing.assert_close(model.state_dict()["patch.shared.weight"], mean)
    assert not any(name.startswith("role") for name in model.state_dict())
    assert model(given("ct"), "dose", NOISY, T).shape == NOISY.shape


def test_modalities_differ_by_embedding_and_slot_alone() -> None:
    """With one embedding and no slot axis two conditions can change places; with either difference they cannot."""
    volumes = given("ct", "ptv")
    swapped = {"ct": volumes["ptv"], "ptv": volumes["ct"]}
    for rope, embedding, same in (("none", "shared", True), ("overlay", "shared", False), ("none", "modality", False)):
        model = made(rope=rope, patch_embedding=embedding)
        a, b = model(volumes, "dose", NOISY, T), model(swapped, "dose", NOISY, T)
        assert torch.allclose(a, b, atol=1e-5) is same


# ---- attention


def test_conditions_do_not_see_the_target_under_condition_causal_attention() -> None:
    seen: list[torch.Tensor] = []
    model = made(attention="condition-causal")
    # The last block but one: of the last one only the target's tokens are computed.
    model.blocks[-2].register_forward_hook(lambda module, args, out: seen.append(out[:, : -4 * 2 * 2]))
    for noisy, t in ((NOISY, T), (NOISY + 1, T * 0.5)):
        model(given("ct", "ptv"), "dose", noisy, t)
    assert seen[0].numel() > 0
    assert torch.equal(seen[0], seen[1])
    full = made()
    seen.clear()
    full.blocks[-2].register_forward_hook(lambda module, args, out: seen.append(out[:, : -4 * 2 * 2]))
    for noisy, t in ((NOISY, T), (NOISY + 1, T * 0.5)):
        full(given("ct", "ptv"), "dose", noisy, t)
    assert not torch.allclose(seen[0], seen[1])


@pytest.mark.parametrize("names", [(), ("ct",), ("ct", "ptv", "angle")])
def test_memory_is_exact_for_every_time_and_candidate(names: tuple[str, ...]) -> None:
    model = made(attention="condition-causal")
    one = given(*names, batch=1)
    both = {m: v.expand(2, -1, -1, -1, -1) for m, v in one.items()}
    memory = model.remember(one)
    for t in (T, T * 0.1, torch.ones(2)):
        torch.testing.assert_close(
            model(both, "dose", NOISY, t, memory), model(both, "dose", NOISY, t), atol=1e-5, rtol=0
        )


def test_full_attention_has_no_memory() -> None:
    with pytest.raises(ValueError, match="condition-causal"):
        made().remember(given("ct"))


def test_without_conditions_both_attentions_are_one() -> None:
    assert torch.equal(made()({}, "dose", NOISY, T), made(attention="condition-causal")({}, "dose", NOISY, T))


# ---- training


@pytest.mark.parametrize("attention", ["full", "condition-causal"])
def test_checkpointing_changes_no_gradient(attention: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = made(attention=attention, checkpointing=checkpointing).train()
        model(given("ct", "ptv"), "dose", NOISY, T).square().mean().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_checkpointing_computes_the_blocks_twice_in_training_alone() -> None:
    calls: list[int] = []
    model = made(checkpointing=True)
    model.blocks[0].attn1.register_forward_hook(lambda *_: calls.append(1))
    model.train()(given("ct"), "dose", NOISY, T).mean().backward()
    assert len(calls) == 2
    model.eval()(given("ct"), "dose", NOISY, T)
    assert len(calls) == 3


def test_the_adapters_travel_what_they_say() -> None:
    sizes = {}
    for adapter in ("full", "blocks", "lora+embeddings", "lora"):
        spec = ModelSpec(prior="none", adapter=adapter, rank=4, alpha=4)
        sizes[adapter] = initial_vector(spec).size
        names = list(trainable(adapted_model(spec)))
        whole = [n for n in names if n.startswith("blocks.") and ".lora_" not in n and n.endswith("to_q.weight")]
        assert bool(whole) is (adapter in ("full", "blocks"))
        assert any(n.startswith("patch.") for n in names) is (adapter != "lora")
        assert any(n.startswith("time_proj.") for n in names) is (adapter == "full")
    assert sizes["full"] > sizes["blocks"] > sizes["lora+embeddings"] > sizes["lora"]


@pytest.mark.parametrize(
    "switches",
    [{"rope": "none"}, {"patch_embedding": "shared"}, {"role_embedding": False}, {"attention": "condition-causal"}],
)
@pytest.mark.parametrize("adapter", ["full", "blocks", "lora+embeddings"])
def test_nothing_travels_that_an_any2any_step_cannot_move(switches: dict[str, object], adapter: str) -> None:
    spec = ModelSpec(prior="none", adapter=adapter, rank=2, switches=Switches(**switches))  # type: ignore[arg-type]
    model = adapted_model(spec)
    network = model.network
    volumes = {m: torch.randn(1, 32, 2, 2, 2) for m in MODALITIES}
    total = torch.zeros(())
    for target in MODALITIES:
        total = (
            total
            + network({m: v for m, v in volumes.items() if m != target}, target, volumes[target], torch.tensor([0.5]))
            .square()
            .sum()
        )
    total.backward()
    assert [n for n, p in trainable(model).items() if p.grad is None] == []

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from shared_model.adapter.card import card_bytes, card_path
from shared_model.adapter.manifest import (
    initial_vector,
    load_adapter,
    manifest_hash,
    pack,
    save_adapter,
    unpack,
    vector_hash,
)
from shared_model.adapter.shared import adapted_model, trainable
from shared_model.core.errors import InputError
from shared_model.network.spec import ADAPTERS_OF, ModelSpec


def spec(adapter: str = "lora", **changes: object) -> ModelSpec:
    return ModelSpec(**{"prior": "none", "adapter": adapter, "rank": 4, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("adapter", ADAPTERS_OF["transformer"])
def test_pack_and_unpack_are_bit_exact(adapter: str) -> None:
    model = adapted_model(spec(adapter, base="phantom") if adapter == "base" else spec(adapter))
    values = np.random.default_rng(0).standard_normal(pack(model).size).astype(np.float32)
    unpack(model, values)
    assert pack(model).tobytes() == values.tobytes()


def test_adapters_grow_from_lora_to_full() -> None:
    sizes = [initial_vector(spec(adapter)).size for adapter in ("lora", "lora+embeddings", "full")]
    assert sizes[0] < sizes[1] < sizes[2]


def test_lora_names_only_low_rank_parts_and_leaves_the_prior_alone() -> None:
    model = adapted_model(spec("lora"))
    names = set(trainable(model))
    assert names
    assert all(".lora_" in name for name in names)
    reached = {name.split(".lora_")[0].split(".", 2)[2] for name in names}
    assert reached == {
        "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ffn.net.0.proj", "ffn.net.2",
    }  # fmt: skip


def test_untrained_adapter_changes_nothing() -> None:
    x, t = torch.randn(1, 32, 4, 4, 4), torch.tensor([0.7])
    condition = {"ptv": torch.randn(1, 32, 4, 4, 4)}
    plain = adapted_model(spec("full")).eval().network(condition, "dose", x, t)
    with_lora = adapted_model(spec("lora+embeddings")).eval().network(condition, "dose", x, t)
    torch.testing.assert_close(plain, with_lora)


def test_hash_tells_what_fits() -> None:
    hashes = {
        manifest_hash(s)
        for s in (
            spec(),
            spec(rank=8),
            spec(init_seed=1),
            spec("full"),
            spec("lora+embeddings"),
            spec(precision="fp32"),
        )
    }
    assert len(hashes) == 6
    assert manifest_hash(spec()) == manifest_hash(spec())


def test_a_wrong_length_is_refused() -> None:
    model = adapted_model(spec())
    with pytest.raises(ValueError, match="shape"):
        unpack(model, np.zeros(7, dtype=np.float32))


def test_published_file_round_trip(tmp_path: Path) -> None:
    vector = initial_vector(spec()) + np.float32(0.5)
    save_adapter(tmp_path / "a.safetensors", spec(), vector)
    loaded_spec, loaded, card = load_adapter(tmp_path / "a.safetensors")
    assert (loaded_spec, card) == (spec(), {})
    assert vector_hash(loaded) == vector_hash(vector)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_same_vector_is_the_same_file(tmp_path: Path) -> None:
    vector = initial_vector(spec())
    hashes = {save_adapter(tmp_path / f"{number}.safetensors", spec(), vector) for number in range(8)}
    assert hashes == {hashlib.sha256((tmp_path / "0.safetensors").read_bytes()).hexdigest()}
    assert save_adapter(tmp_path / "other.safetensors", spec(), vector + np.float32(1e-6)) not in hashes


def test_the_file_is_what_the_library_reads_and_writes(tmp_path: Path) -> None:
    save_adapter(tmp_path / "a.safetensors", spec(), initial_vector(spec()))
    found = load_file(tmp_path / "a.safetensors")
    expected = trainable(adapted_model(spec()))
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], value.detach()) for name, value in expected.items())


def test_the_card_beside_it_counts_only_when_it_is_this_adapters(tmp_path: Path) -> None:
    path, vector = tmp_path / "a.safetensors", initial_vector(spec())
    save_adapter(path, spec(), vector)
    for sha256, told in ((vector_hash(vector), True), ("0" * 64, False)):
        card = {"adapter": {"sha256": sha256}, "rounds": 3}
        card_path(path).write_bytes(card_bytes(card))
        assert load_adapter(path)[2] == (card if told else {})
    card_path(path).write_text("[1]")
    assert load_adapter(path)[2] == {}


def test_damaged_or_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_adapter(path, spec(), initial_vector(spec()))
    whole = path.read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"not an adapter"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            load_adapter(tmp_path / name)
    with pytest.raises(InputError, match="missing"):
        load_adapter(tmp_path / "missing")


def test_an_adapter_of_another_prior_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    save_adapter(path, spec(), initial_vector(spec()))
    monkeypatch.setattr("shared_model.adapter.manifest.prior_hash", lambda s: "f" * 64)
    with pytest.raises(InputError, match="trained on prior"):
        load_adapter(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        ('{"prior":"none","depth":3}', "unknown key 'depth'"),
        ('{"rank":"4"}', "rank is str"),
        ('{"rank":true}', "rank is bool"),
        ('{"adapter":"huge"}', "model.adapter"),
        ('{"shape":[32,32]}', "model.shape"),
        ('{"shape":[32,32,30]}', "model.shape"),
        ('{"rank":0}', "model.rank"),
    ],
)
def test_bad_specs_are_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ModelSpec.from_json(text)


def test_spec_json_round_trip() -> None:
    assert ModelSpec.from_json(spec().to_json()) == spec()

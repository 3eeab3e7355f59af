import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from shared_model.backbone.pyramid_file import packed, read_network
from shared_model.core.errors import InputError
from shared_model.network.pyramid import PyramidDiT
from shared_model.network.seeding import seeded
from tests.builders.small_case import TINY


def _written(folder: Path, **changes: object) -> Path:
    with seeded(0):
        network = PyramidDiT(TINY)
    content, card = packed(dict(network.named_parameters()), TINY, {"by": "a test"})
    path = folder / "model.safetensors"
    path.write_bytes(content)
    path.with_suffix(".json").write_text(json.dumps({**json.loads(card), **changes}))
    return path


def test_weights_come_back_as_bf16_and_the_same_twice(tmp_path: Path) -> None:
    path = _written(tmp_path)
    network, card = read_network(path)
    assert card["by"] == "a test"
    assert card["parameters"] == sum(p.numel() for p in network.parameters())
    assert all(t.dtype == torch.bfloat16 for t in load(path.read_bytes()).values())
    content, again = packed(dict(network.named_parameters()), network.spec, {"by": "a test"})
    assert content == path.read_bytes()
    assert json.loads(again) == card


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "other"}, "expected pyramid-dit"),
        ({"sha256": "0" * 64}, "its numbers are not those"),
        ({"spec": {"layers": 1}}, "do not fit"),
        ({"spec": {"colour": 1}}, "no card"),
        ({"channels": {"recipe": 0}}, "with channels 0"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    path = _written(tmp_path, **changes)
    with pytest.raises(InputError, match=says) as caught:
        read_network(path)
    assert "model." in str(caught.value)


def test_a_cut_off_or_missing_file_is_refused(tmp_path: Path) -> None:
    path = _written(tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="safetensors"):
        read_network(path)
    with pytest.raises(InputError, match="no card"):
        read_network(tmp_path / "none.safetensors")

"""What a coordinator may ask of a site's memory and parser."""

import json

import pytest

from shared_model.core.errors import InputError
from shared_model.network.spec import ModelSpec
from shared_model.network.switches import Switches


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"shape":[8000,8000,8000]}', "shape"),
        ('{"shape":[8,8,80000000]}', "shape"),
        ('{"shape":[true,8,8]}', "shape"),
        ('{"rank":1025}', "rank"),
        ('{"alpha":1' + "0" * 400 + "}", "alpha"),
        ('{"init_seed":99999999999999999999}', "init_seed"),
        ('{"init_seed":-1}', "init_seed"),
        ('{"init_seed":' + "9" * 5000 + "}", "JSON"),
        ('{"shape":' + "[" * 15000 + "]" * 15000 + "}", "spec"),
        ('{"prior":"../../etc"}', "prior"),
        ('{"body_site":"knee"}', "body_site"),
        ('{"size":"small"}', "model.size='small': with network transformer expected base"),
        ('{"network":"pyramid","prior":"none","size":"huge"}', "expected small or base"),
        ('{"network":"pyramid","prior":"bundled","size":"small"}', "weights of model.prior=bundled are of size base"),
        ('{"network":"pyramid","prior":"phantom"}', "weights of model.prior=phantom are of size small"),
        ('{"body_site":"thorax"}', "expected model.network=pyramid"),
    ],
)
def test_a_specification_that_asks_too_much_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        ModelSpec.from_json(text)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 300


def test_native_resolution_is_allowed() -> None:
    assert ModelSpec(shape=(128, 128, 128)).shape == (128, 128, 128)


@pytest.mark.parametrize("switches", [{"predicts": "eps"}, {"predicts": "x0"}, {"rope": "split"}, {"rope": "naive"}])
def test_a_switch_that_breaks_the_pretrained_video_model_is_refused(switches: dict[str, str]) -> None:
    (key,) = switches
    text = json.dumps({"prior": "wan", "shape": [17, 32, 32], "switches": switches})
    with pytest.raises(InputError, match=f"model.switches.{key}.*model.prior=wan"):
        ModelSpec.from_json(text)


def test_fields_at_their_default_are_not_part_of_the_identity() -> None:
    assert set(json.loads(ModelSpec(prior="wan", shape=(17, 32, 32)).to_json())).isdisjoint(
        {"prior_sha256", "switches"}
    )
    pinned = ModelSpec(prior="wan", prior_sha256="a" * 64, shape=(17, 32, 32), switches=Switches(rope="none"))
    assert ModelSpec.from_json(pinned.to_json()) == pinned


def test_the_size_is_part_of_a_models_identity_but_the_usual_one_is_not_written() -> None:
    usual = ModelSpec(network="pyramid", prior="none")
    small = ModelSpec(network="pyramid", prior="none", size="small")
    assert "size" not in usual.to_json()
    assert ModelSpec.from_json(small.to_json()) == small
    assert small.to_json() != usual.to_json()


def test_the_site_of_the_body_is_part_of_a_models_identity_but_head_and_neck_is_not_written() -> None:
    neck = ModelSpec(network="pyramid", prior="none")
    lung = ModelSpec(network="pyramid", prior="none", body_site="thorax")
    assert "body_site" not in neck.to_json()
    assert ModelSpec.from_json(lung.to_json()) == lung
    assert lung.to_json() != neck.to_json()

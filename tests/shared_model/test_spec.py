"""What a coordinator may ask of a site's memory and parser."""

import pytest

from shared_model.errors import InputError
from shared_model.spec import ModelSpec


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
    ],
)
def test_a_specification_that_asks_too_much_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        ModelSpec.from_json(text)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 300


def test_native_resolution_is_allowed() -> None:
    assert ModelSpec(shape=(128, 128, 128)).shape == (128, 128, 128)

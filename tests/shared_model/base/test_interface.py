"""Every base in the list is there, and is what the list says of it."""

from dataclasses import replace

import pytest

from shared_model.base.interface import base_of
from shared_model.network.spec import BASES, ModelSpec
from simulations.phantom.hospitals import STYLES, phantom_case

SPEC = ModelSpec(prior="none", shape=(16, 16, 16))


@pytest.mark.parametrize("name", BASES)
def test_a_base_is_what_the_list_says(name: str) -> None:
    spec = replace(SPEC, base=name)
    base, case = base_of(spec), phantom_case(3, STYLES["openkbp_like"], (16, 16, 16))
    network = base.network()
    assert (network is not None) == spec.has_base
    if network is not None:
        rows = base.rows(case, base.features(case))
        assert rows is not None
        assert len(rows.features) == len(rows.ratio) > 0
    weights = b"" if network is None else b"".join(p.detach().numpy().tobytes() for p in network.parameters())
    assert (base.dose(case, base.features(case), weights) is not None) == spec.has_base

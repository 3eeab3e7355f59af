import pytest

from privacy.dp.accountant import Charge
from privacy.dp.encoding import FINE
from privacy.dp.terms import PrivacyTerms
from shared_model.core.errors import InputError


def terms(**changes: object) -> PrivacyTerms:
    values = {
        "mode": "shared", "z": 4.0, "q": 0.5, "steps": 10, "clip": 0.1, "delta": 1e-5, "cohort": 100, "sites": 5,
        "survivors": 5, "colluders": 1,
    }  # fmt: skip
    return PrivacyTerms(**{**values, **changes})  # type: ignore[arg-type]


def test_noise_is_shared_among_the_sites_that_are_sure_to_be_honest() -> None:
    shared = terms()
    assert shared.honest == 4
    assert shared.z_alone == 2.0
    assert shared.encoding().sigma_site == 2.0 * FINE
    assert shared.divisor == 50.0
    assert shared.charge(3) == Charge(z=4.0, z_alone=2.0, q=1.0, count=3)


def test_the_draw_counts_only_where_an_answers_time_does_not_tell_of_it() -> None:
    assert terms(q=0.5).charge().q == 1.0
    assert terms(q=0.5, hold_s=60.0).charge().q == 0.5
    assert terms(q=0.5).divisor == terms(q=0.5, hold_s=60.0).divisor == 50.0


def test_a_local_site_stands_alone() -> None:
    assert terms(mode="local").z_alone == 4.0


def test_hospital_level_terms_cost_a_patient_twice_the_distance() -> None:
    site = terms(mode="site", q=1.0)
    assert site.units == 5
    assert site.charge().z == 2.0
    assert site.charge().z_alone == 1.0


def test_terms_travel_as_json() -> None:
    shared = terms(bits=32, views=4)
    assert PrivacyTerms.from_json(shared.to_json()) == shared
    assert PrivacyTerms.from_json("") is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colluders": 0}, "1 <= colluders"),
        ({"colluders": 5}, "1 <= colluders"),
        ({"survivors": 6}, "survivors <= sites"),
        ({"z": 0.0}, "z must be"),
        ({"q": 0.0}, "q must be"),
        ({"delta": 0.5}, "delta must be"),
        ({"clip": 0.0}, "clip must be"),
        ({"mode": "none"}, "mode must be"),
        ({"mode": "site", "q": 0.5}, "expected q = 1"),
        ({"bits": 16, "cohort": 1_000_000}, "do not fit a ring of 16 bits"),
    ],
)
def test_terms_that_promise_nothing_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        terms(**changes)


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"mode":"shared"}'])
def test_strange_terms(text: str) -> None:
    with pytest.raises(InputError, match="privacy terms"):
        PrivacyTerms.from_json(text)

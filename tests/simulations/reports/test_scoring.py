from shared_model.scoring.dosimetry import CaseScore
from simulations.reports.scoring import by_ct


def score(error: float) -> CaseScore:
    return CaseScore(dose_score_gy=error, dvh_errors={"PTV_7000/D99": error}, mae_ref5_gy=error, mae_gdp_gy=error)


def test_patients_with_a_ct_and_without_are_scored_apart_on_both_grids() -> None:
    scores = {"A": {"pt_1": score(1.0), "pt_2": score(2.0)}, "B": {"pt_3": score(4.0)}}
    found = by_ct(scores, {"pt_1": score(1.5), "pt_3": score(5.0)}, {"pt_3"})
    assert found["with_ct"]["metrics"]["dose_score_gy"] == 1.5
    assert found["with_ct"]["native"]["patients"] == 1
    assert found["with_ct"]["native"]["dvh_score_gy"] == 1.5
    assert found["without_ct"]["metrics"]["patients"] == 1
    assert found["without_ct"]["native"]["dose_score_gy"] == 5.0


def test_where_all_patients_have_a_ct_there_is_nothing_to_tell_apart() -> None:
    assert by_ct({"A": {"pt_1": score(1.0)}}, {}, set()) == {}
    assert by_ct({"A": {"pt_1": score(1.0)}}, {}, {"pt_1"}) == {}

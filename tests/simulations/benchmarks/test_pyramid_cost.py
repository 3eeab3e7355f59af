from simulations.benchmarks.pyramid_cost import STEPS, measure_prediction, measure_training
from tests.builders.small_case import TINY
from tests.builders.small_study import ellipsoid_case


def test_it_measures_a_training_and_a_prediction() -> None:
    trained = measure_training(16, "fp32", TINY)
    assert STEPS * 2 / trained["samples_cpu_s"] < 100
    drawn = measure_prediction(ellipsoid_case(), 1, 1)
    assert drawn["cpu_s"] > 0
    for found in (trained, drawn):
        assert 0.1 < found["peak_gb"] < 100  # in 10^9 bytes

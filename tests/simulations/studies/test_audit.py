"""The audit's inversion attack: it finds a patient in a plain gradient, and not under the noise."""

from pathlib import Path

from simulations.studies.audit import _inversion, audit_settings


def test_a_patients_ct_shows_in_a_plain_gradient_and_not_under_the_noise(tmp_path: Path) -> None:
    settings = audit_settings([f"out={tmp_path}", "patients=4"])
    found = _inversion(settings, settings.terms(1, settings.patients))
    assert found["plain"] > 0.9
    assert found["shared"] < 0.3  # of 256 numbers, a chance direction is at 0.05

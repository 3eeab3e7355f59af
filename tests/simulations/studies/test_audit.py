"""The audit's inversion attack: it finds a patient in a plain gradient, and not under the noise."""

import json
from pathlib import Path

import pytest

from simulations.studies.audit import _inversion, audit_settings, run_audit


def test_a_patients_ct_shows_in_a_plain_gradient_and_not_under_the_noise(tmp_path: Path) -> None:
    settings = audit_settings([f"out={tmp_path}", "patients=4"])
    found = _inversion(settings, settings.terms(1, settings.patients))
    assert found["plain"] > 0.9
    assert found["shared"] < 0.3  # of 256 numbers, a chance direction is at 0.05


def test_a_toy_audit_ends_in_a_table(tmp_path: Path) -> None:
    small = ["patients=4", "trials=40", "canaries=40", "numbers=20000", "steps=1"]
    report = run_audit(audit_settings([f"out={tmp_path}", *small]))
    assert (tmp_path / "audit.md").read_text() == report + "\n"
    assert len(report.splitlines()) == 2 + 7
    found = json.loads((tmp_path / "audit.json").read_text())
    assert abs(found["noise"]["all_sites"]["score"]) < 6  # the promised noise is there
    assert found["noise"]["one_site_silent"]["score"] < -6  # and its lack is seen
    assert found["membership"]["plain_sum"]["auc"] == pytest.approx(1.0)
    assert found["membership"]["shared"]["trials"] == 40

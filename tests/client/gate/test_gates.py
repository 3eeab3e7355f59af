"""The two gates: a hospital's is bound by its own papers, a simulated site's lets everything pass but still charges."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.gate.gates import HospitalGate, SimulatedGate
from client.site.policy import default_policy_text
from privacy.dp.terms import PrivacyTerms
from privacy.secagg.errors import SecAggError
from shared_model.core.errors import PolicyError

TERMS = PrivacyTerms(
    mode="local", z=4.0, q=1.0, steps=8, clip=1.0, delta=1e-3, cohort=6, sites=2, survivors=2, colluders=1
)  # fmt: skip


@pytest.fixture
def hospital(tmp_path: Path) -> HospitalGate:
    record = {"schema": 3, "site": "a", "consortium": "0" * 32, "name": "c", "server": "127.0.0.1:1"}
    (tmp_path / "client.json").write_text(json.dumps(record))
    (tmp_path / "policy.yaml").write_text(default_policy_text())
    return HospitalGate.of_home(tmp_path)


def test_a_hospital_is_charged_by_its_own_delta_whatever_the_task_asks_for(hospital: HospitalGate) -> None:
    ledger = hospital.ledger(TERMS)
    assert ledger is not None
    assert ledger.delta == hospital.limits.policy.delta != TERMS.delta
    assert not ledger.made  # only the hospital itself makes it: `client budget --make-ledger`


def test_a_simulated_site_makes_the_ledger_that_its_node_names(tmp_path: Path) -> None:
    assert SimulatedGate().ledger(TERMS) is None
    ledger = SimulatedGate(ledger_folder=str(tmp_path / "ledger")).ledger(TERMS)
    assert ledger is not None
    assert ledger.made
    assert ledger.delta == TERMS.delta


def test_only_a_hospital_holds_back_metrics_and_large_adapters(hospital: HospitalGate) -> None:
    metrics = {"loss": 1.0, "age_of_the_oldest_patient": 101.0}
    assert "age_of_the_oldest_patient" not in hospital.filter_metrics(metrics)
    assert SimulatedGate().filter_metrics(metrics) == metrics
    with pytest.raises(PolicyError, match="max_adapter_mb"):
        hospital.check_size(10**12)
    SimulatedGate().check_size(10**12)


def test_a_simulated_site_that_nobody_enrolled_has_no_part_in_secure_sums() -> None:
    with pytest.raises(SecAggError, match="no identity"):
        SimulatedGate(enrolled_as="nobody").secure_site()

"""ScardNFT on small patients: the score rises, hacking is refused, a stopped alignment ends with the same weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from client.adapters.align import CHECKPOINT, PRIVATE_FILE, AlignJob, align, cohort
from client.adapters.scard_nft import Alignment, Held
from client.adapters.settings import AlignSettings
from client.data.case_files import load_case, save_case
from client.site.config import SiteConfig
from shared_model.adapter.manifest import initial_vector, save_adapter
from shared_model.adapter.private import PrivateAdapter, PrivatePolicy
from shared_model.core.errors import InputError
from shared_model.network.spec import ModelSpec
from shared_model.scoring.scorecard import Scorecard
from shared_model.scoring.scorecard_read import parse_scorecard
from tests.builders.phantom_patients import CARD, SPEC, trained_vector, write_site

# So few steps that their mean would be far behind the last.
SETTINGS = AlignSettings(epochs=2, candidates=8, batch=2, lr=1e-2, patience=9, mae_drift=0.05, smooth=0.0)
LOW_DOSE = """\
schema: rt-scorecard/2
name: low dose alone
version: "1"
metrics:
  - {id: body, structure: Body, metric: Mean, unit: Gy, direction: lower, weight: 100, points: [[0, 100], [30, 0]]}
  - {id: d95, structure: PTV_High, metric: D95%, unit: Gy, direction: higher, weight: 1, points: [[0, 0], [70, 1]],
     constraint: {at_least: CONSTRAINT}}
"""


def quiet(_what: str, _done: int, _total: int, _numbers: dict[str, float]) -> None:
    pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteConfig:
    return write_site(tmp_path_factory.mktemp("cases"))


def job(site: SiteConfig, out: Path, card: str = CARD, settings: AlignSettings = SETTINGS) -> AlignJob:
    found: Scorecard = parse_scorecard(card)
    return AlignJob(card=found, spec=SPEC, vector=trained_vector(), site=site, out=out, settings=settings)


def criterion(summary: dict[str, Any], name: str, column: str) -> float:
    (entry,) = [c for c in summary["per_criterion"] if c["id"] == name]
    return float(entry[column]["value"])


@pytest.fixture(scope="module")
def aligned(site: SiteConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("aligned")
    return out, align(job(site, out), quiet)


def test_a_pyramid_is_aligned_in_the_same_way(site: SiteConfig, tmp_path: Path) -> None:
    """One epoch moves the private weights alone, and what they predict differs from the shared model."""
    spec = ModelSpec(network="pyramid", prior="none")
    settings = replace(SETTINGS, epochs=1, candidates=4, batch=1, rank=2, mae_drift=10.0)
    vector = initial_vector(spec)
    few = replace(site, train=site.train[:2], validation=site.validation[:1])
    made = AlignJob(
        card=parse_scorecard(CARD), spec=spec, vector=vector, site=few, out=tmp_path / "out", settings=settings
    )
    summary = align(made, quiet)
    weights = load_file(tmp_path / "out" / PRIVATE_FILE)
    assert all("lora" in name for name in weights)
    assert any(name.startswith("core.blocks") for name in weights)
    assert set(summary) == {"before", "after", "per_criterion"}
    policy = PrivatePolicy(spec, vector, settings.shape)
    train, _ = cohort(made, policy, quiet)
    alignment = Alignment(policy, train, train, settings)
    before = {name: p.detach().clone() for name, p in policy.parameters().items()}
    alignment._epoch(lambda: None)
    assert any(not torch.equal(before[name], p) for name, p in policy.parameters().items())
    frozen = [p for name, p in policy.model.named_parameters() if "private" not in name]
    assert all(p.grad is None for p in frozen)


def test_the_held_back_score_rises_and_the_files_say_so(site: SiteConfig, tmp_path: Path) -> None:
    # With the usual anchor eight patients learn their error before their score.
    out = tmp_path / "out"
    summary = align(job(site, out, settings=replace(SETTINGS, epochs=8, anchor=1.0)), quiet)
    assert json.loads((out / "summary.json").read_text()) == summary
    assert set(summary) == {"before", "after", "per_criterion"}
    assert set(summary["before"]) == set(summary["after"]) == {"score", "mae_ref5_gy"}
    assert summary["after"]["score"] > summary["before"]["score"] + 0.5
    assert summary["after"]["mae_ref5_gy"] <= 1.05 * summary["before"]["mae_ref5_gy"]
    history = json.loads((out / "align.json").read_text())["history"]
    assert [entry["epoch"] for entry in history] == [*range(9)]
    assert len((out / "curves.csv").read_text().splitlines()) == 10
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert all(c["patients"] == 3 and {"reference", "before", "after"} <= set(c) for c in summary["per_criterion"])


def test_a_stopped_alignment_goes_on_and_ends_with_the_same_weights(
    site: SiteConfig, aligned: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StopError(Exception):
        pass

    def stopping(what: str, done: int, _total: int, _numbers: dict[str, float]) -> None:
        if (what, done) == ("candidates", 2) and (tmp_path / CHECKPOINT).is_file():
            epochs = torch.load(tmp_path / CHECKPOINT, weights_only=True)["state"]["epoch"]
            if epochs == 1:
                raise StopError

    with pytest.raises(StopError):
        align(job(site, tmp_path), stopping)
    assert align(job(site, tmp_path), quiet) == aligned[1]
    again, first = (load_file(folder / PRIVATE_FILE) for folder in (tmp_path, aligned[0]))
    assert again.keys() == first.keys()
    assert all(torch.equal(again[name], first[name]) for name in first)


@pytest.mark.parametrize(
    ("dear", "elsewhere", "most"), [(0.016, 0.0, 0.75), (0.004, 0.0, 1.5), (0.0001, 0.0, 3.0), (0.0001, 0.004, 1.5)]
)
def test_as_much_of_the_way_is_gone_as_the_error_allows(
    dear: float, elsewhere: float, most: float, site: SiteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Error grows with the square of the way and the score along it: three quarters are the most that 1 % allows where
    the whole way costs 1.6 %, and three times the way where it costs next to nothing; to all patients too, not only to
    the few who choose."""
    made = job(site, tmp_path, settings=replace(SETTINGS, epochs=1, mae_drift=0.01))
    policy = PrivatePolicy(made.spec, made.vector, made.settings.shape)
    alignment = Alignment(policy, *cohort(made, policy, quiet), made.settings)
    start = {name: p.detach().clone() for name, p in policy.parameters().items()}
    ends: list[dict[str, torch.Tensor]] = []

    def way() -> float:
        now = {name: p.detach().clone() for name, p in policy.parameters().items()}
        if all(torch.equal(now[name], start[name]) for name in start):
            return 0.0
        ends.append(now)  # the first after training is the whole way
        return max(float((now[n] - start[n]).norm() / (ends[0][n] - start[n]).norm().clamp_min(1e-9)) for n in start)

    def held_back() -> Held:
        share = way()
        return Held(score=80.0 + share, mae_ref5_gy=4.0 * (1.0 + dear * share**2), broken=0.0)

    monkeypatch.setattr(alignment, "held_back", held_back)
    monkeypatch.setattr(alignment, "mae_gy", lambda: 4.0 * (1.0 + elsewhere * way() ** 2))
    alignment.run(lambda _entry: None, lambda: None)
    assert alignment.state.best_strength == most
    assert way() == pytest.approx(most, rel=1e-3)
    assert alignment.state.history[1]["score"] == pytest.approx(81.0), "the report is of the whole way"


def test_what_is_scored_is_the_mean_of_the_weights_on_their_way(
    site: SiteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = job(site, tmp_path, settings=replace(SETTINGS, epochs=1, smooth=0.9))
    policy = PrivatePolicy(made.spec, made.vector, made.settings.shape)
    alignment = Alignment(policy, *cohort(made, policy, quiet), made.settings)
    name = next(iter(policy.parameters()))
    seen = [policy.parameters()[name].detach().clone()]
    follow = policy.follow

    def noting(keep: float) -> None:
        seen.append(policy.parameters()[name].detach().clone())
        follow(keep)

    monkeypatch.setattr(policy, "follow", noting)
    alignment.run(lambda _entry: None, lambda: None)
    assert 3 <= len(seen) <= 10, "as long as all count alike"
    torch.testing.assert_close(alignment.mean[name], torch.stack(seen).mean(0))


def test_another_alignments_folder_is_refused(site: SiteConfig, aligned: tuple[Path, dict[str, Any]]) -> None:
    other = job(site, aligned[0], settings=replace(SETTINGS, beta=0.2))
    with pytest.raises(InputError, match="holds an alignment with other settings"):
        align(other, quiet)


@pytest.mark.parametrize("changed", ["case0", "case4"])
def test_a_patient_who_was_changed_makes_it_another_alignment(tmp_path: Path, changed: str) -> None:
    """A corrected structure or a dose exported again, of a training or a held-back patient, under the same id."""
    made = job(write_site(tmp_path / "cases"), tmp_path / "out", settings=replace(SETTINGS, epochs=0))
    align(made, quiet)
    align(made, quiet)
    before = load_case(tmp_path / "cases" / f"{changed}.npz")
    larynx = before.structures["Larynx"].copy()
    larynx[tuple(np.argwhere(larynx)[0])] = False
    save_case(
        tmp_path / "cases" / f"{changed}.npz", replace(before, structures={**before.structures, "Larynx": larynx})
    )
    with pytest.raises(InputError, match="holds an alignment with other settings"):
        align(made, quiet)


def test_files_are_the_owners_alone(aligned: tuple[Path, dict[str, Any]]) -> None:
    for path in aligned[0].iterdir():
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0, path


def test_a_card_that_pays_for_low_dose_is_not_hacked(
    site: SiteConfig, aligned: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """With constraint and anchor the plan stays one; without either, the same training gives dose away for points."""
    before = criterion(aligned[1], "d95", "before")
    card = LOW_DOSE.replace("CONSTRAINT", f"{before - 0.5:.2f}")
    guarded = align(job(site, tmp_path / "guarded", card, replace(SETTINGS, mae_drift=0.01)), quiet)
    assert criterion(guarded, "d95", "after") >= before - 0.5
    assert guarded["after"]["mae_ref5_gy"] <= 1.01 * guarded["before"]["mae_ref5_gy"]
    naked = replace(SETTINGS, anchor=0.0, penalty=0.0, lambda_diffusion=0.0, mae_drift=1e5)
    no_constraint = card.replace(",\n     constraint: {at_least: " + f"{before - 0.5:.2f}" + "}", "")
    hacked = align(job(site, tmp_path / "hacked", no_constraint, naked), quiet)
    assert hacked["after"]["score"] > guarded["after"]["score"]
    broke = criterion(hacked, "d95", "after") < before - 0.5
    drifted = hacked["after"]["mae_ref5_gy"] > 1.01 * hacked["before"]["mae_ref5_gy"]
    assert broke or drifted


def test_the_raw_reward_is_score_less_hinge_less_anchor(site: SiteConfig, tmp_path: Path) -> None:
    card = LOW_DOSE.replace("CONSTRAINT", "66")
    made = job(site, tmp_path, card, replace(SETTINGS, anchor=3.0, penalty=2.0))
    policy = PrivatePolicy(made.spec, made.vector, made.settings.shape)
    train, held = cohort(made, policy, quiet)
    alignment = Alignment(policy, train, held, made.settings)
    one = train[0]
    doses = torch.stack([one.reference, 0.9 * one.reference])
    values = one.card.values(doses)
    hinge = 2.0 * (66 - values[:, 1]).clamp_min(0) / 70 * 1 / 101 * 100
    expected = one.card.score(doses) - hinge - 3.0 * one.mae_gy(doses)
    torch.testing.assert_close(alignment.rewards(one, doses), expected, atol=1e-4, rtol=1e-5)
    assert one.mae_gy(doses)[0] == 0


def test_the_velocity_form_runs_too(site: SiteConfig, tmp_path: Path) -> None:
    summary = align(job(site, tmp_path, settings=replace(SETTINGS, form="velocity", beta=1.0, epochs=1)), quiet)
    assert np.isfinite(summary["after"]["score"])


@pytest.mark.parametrize(
    ("key", "value"), [("form", "eps"), ("candidates", 1), ("beta", 0.0), ("lr", -1.0), ("anchor", -1.0)]
)
def test_bad_settings_are_named(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=key):
        replace(SETTINGS, **{key: value})


def test_the_private_adapter_comes_back_from_its_file(aligned: tuple[Path, dict[str, Any]]) -> None:
    private = PrivateAdapter.load(aligned[0] / PRIVATE_FILE)
    assert private.shape == SETTINGS.shape
    save_adapter(aligned[0] / "shared.safetensors", SPEC, trained_vector())
    with pytest.raises(InputError, match="not a private adapter"):
        PrivateAdapter.load(aligned[0] / "shared.safetensors")

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.progress import Progress, TextColumn

from shared_model.adapter.manifest import manifest_hash
from shared_model.core.errors import FedKT3DError, InputError
from simulations.reports.ablation import AblationTrial, order_notes, paired_difference, table_csv, table_markdown
from simulations.reports.by_hospital import hospitals_markdown
from simulations.series import ablation
from simulations.series.ablation import run_ablation, trial_settings
from simulations.series.variants import VariantList
from simulations.settings.series import ablation_settings

PAPER = VariantList.read("paper")
FULL, VARIANTS = PAPER.reference, PAPER.rows
TINY = [
    "model.prior=none", "model.shape=[16,16,16]", "rounds.count=2", "train.local_steps=1", "train.batch_size=1",
    "data.sites=2", "data.patients=3", "workers=1", "variants=[scratch,condition_causal]", "seeds=[0]", "steps=[1,2]",
]  # fmt: skip


def bars() -> Progress:
    return Progress(TextColumn("{task.fields[note]}"), disable=True)


def test_every_variant_composes_and_none_is_another(tmp_path: Path) -> None:
    settings = ablation_settings(["rounds.count=10", f"out={tmp_path}"])
    runs = {name: trial_settings(settings, PAPER, name, 1) for name in PAPER.choose(settings.variants)}
    assert list(runs) == list(VARIANTS)
    identities = {(run.federation.to_json().replace(f"ablation-{name}", "")) for name, run in runs.items()}
    assert len(identities) == len(VARIANTS)
    for name, run in runs.items():
        assert run.out == tmp_path / name / "seed1"
        assert run.federation.seed == 1
        assert run.federation.train.any2any_share == (0.0 if name in ("scratch", "prior") else 0.5)
        assert run.federation.rounds.count == 10


def test_the_switches_reach_a_variants_model(tmp_path: Path) -> None:
    settings = ablation_settings(["model.prior=none", f"out={tmp_path}"])
    specs = {name: trial_settings(settings, PAPER, name, 0).spec for name in VARIANTS}
    assert specs["no_role"].switches.role_embedding is False
    assert specs["x0"].switches.predicts == "x0"
    assert specs["rope_split"].switches.rope == "split"
    assert len({manifest_hash(spec) for spec in specs.values()}) == len(VARIANTS) - 3  # scratch, prior, no_curriculum


@pytest.mark.parametrize(
    ("override", "words"),
    [("variants=[magic]", "magic"), ("seeds=[]", "seeds"), ("steps=[0]", "steps"), ("jobs=0", "jobs"),
     ("study=local", "study"),
     ("list=magic", "missing_modality, new_clinic, paper"),
     ("rouns=3", "rouns")],
)  # fmt: skip
def test_a_bad_override_is_named_before_anything_trains(override: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        run_ablation(ablation_settings([override, f"out={tmp_path / 'a'}"]), bars())
    assert words in str(caught.value)
    assert not (tmp_path / "a").exists()


def test_trains_writes_and_finds_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = run_ablation(ablation_settings([*TINY, f"out={tmp_path}"]), bars())
    assert (tmp_path / "ablation.md").read_text() in table
    assert len((tmp_path / "ablation.csv").read_text().splitlines()) == 1 + 2 * 2
    done = json.loads((tmp_path / "condition_causal" / "seed0" / "ablation.json").read_text())
    assert done["trained"]["federation"]["model"]["switches"]["attention"] == "condition-causal"

    def fail(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(ablation, "run_studies", fail)
    assert run_ablation(ablation_settings([*TINY, f"out={tmp_path}"]), bars()) == table
    more = run_ablation(ablation_settings([*TINY, "steps=[1,2,4]", f"out={tmp_path}"]), bars())
    assert "4 steps" in more
    with pytest.raises(InputError, match="other settings"):
        run_ablation(ablation_settings([*TINY, "train.lr=1e-5", f"out={tmp_path}"]), bars())


def test_a_trial_beside_one_that_fails_ends_as_it_does_alone(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        "reference: a\nstudy: federated\ncommon: [model.network=transformer, rounds.count=1, data.edge=16]\nvariants:\n"
        "  a: {label: A, overrides: [train.lr=1e-3]}\n"
        "  b: {label: B, overrides: [], clinic: {place: 0, patients: 99}}\n"
    )
    small = [one for one in TINY if not one.startswith(("variants", "steps", "rounds"))]
    asked = [*small, f"list={own}", "steps=[1]"]
    with pytest.raises(FedKT3DError, match=r"^1 of 2 trials failed: row b, seed 0: clinic: .* not 99$"):
        run_ablation(ablation_settings([*asked, "jobs=2", f"out={tmp_path / 'beside'}"]), bars())
    assert "| A |" in (tmp_path / "beside" / "ablation.md").read_text()
    run_ablation(ablation_settings([*asked, "variants=[a]", f"out={tmp_path / 'alone'}"]), bars())
    found = [json.loads((tmp_path / way / "a/seed0/ablation.json").read_text()) for way in ("beside", "alone")]
    for result in found:
        assert result.pop("wall_s") > 0
    assert found[0] == found[1]


def trial(variant: str, seed: int, mae: float) -> AblationTrial:
    scores = {1: dict.fromkeys(("dose_score_gy", "dvh_score_gy", "mae_ref5_gy", "mae_gdp_gy"), mae + 1)}
    scores[10] = dict.fromkeys(scores[1], mae)
    return AblationTrial(variant=variant, seed=seed, vector_bytes=4_000_000, wall_s=1.0, scores=scores)


def test_mean_spread_the_papers_values_and_where_the_order_differs() -> None:
    trials = [trial(FULL, 0, 3.0), trial(FULL, 1, 4.0), trial("x0", 0, 3.0), trial("no_role", 0, 3.9)]
    table = table_markdown(VARIANTS, FULL, trials)
    three = " | ".join(["3.50 ± 0.71"] * 3)
    assert f"| + Any2Any (the full model) | 2 | {three} | 4.50 ± 0.71 | 4.00 | 1.90 | 136.2 |" in table
    assert "| x0 target | 1 | 3.00 | 3.00 | 3.00 | 4.00 | 4.00 | 2.45 | - |" in table
    notes = order_notes(VARIANTS, FULL, trials)
    assert notes[2:] == ["- x0 target: +0.55 Gy against the full model in the paper, -0.50 Gy here."]
    assert order_notes(VARIANTS, FULL, [trial("x0", 0, 1.0)]) == []
    assert table_csv(trials[:1]).splitlines()[2] == "any2any,0,10,3.0000,3.0000,3.0000,3.0000,4000000,1.0"


def test_strategies_compose_and_each_is_another(tmp_path: Path) -> None:
    listed = VariantList.read("strategies")
    settings = ablation_settings(["list=strategies", "rounds.count=10", f"out={tmp_path}"])
    runs = {name: trial_settings(settings, listed, name, 0) for name in listed.choose(["all"])}
    assert all(run.study == ("federated",) for run in runs.values())
    texts = {run.federation.to_json().replace(f"ablation-{name}", "") for name, run in runs.items()}
    assert len(texts) == len(listed.rows) >= 11


def test_a_list_of_ones_own_and_what_is_no_list(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("reference: a\nstudy: federated\nvariants: {a: {label: A, overrides: [train.lr=1e-3]}}\n")
    assert VariantList.read(str(own)).rows["a"].overrides == ("train.lr=1e-3",)
    for text in (
        "reference: b\nstudy: federated\nvariants: {a: {label: A, overrides: []}}\n",
        "- 1\n",
        "variants: {a: 1}\n",
    ):
        own.write_text(text)
        with pytest.raises(InputError, match=r"own\.yaml"):
            VariantList.read(str(own))


def test_the_difference_to_the_reference_is_paired_by_patient_and_seed() -> None:
    listed = VariantList.read("strategies")

    def made(variant: str, seed: int, shift: float) -> AblationTrial:
        # Each patient's difference is another, so that the test is exact.
        patients = {f"site {n}": n + 10.0 * seed + shift * (1 + (n - 9.5) / 1000) for n in range(20)}
        return replace(trial(variant, seed, 3.0), patients=patients)

    trials = [made("fedavg", 0, 0.0), made("fedavg", 1, 0.0), made("median", 0, 0.5), made("median", 1, 0.7)]
    found = paired_difference(trials, "median", "fedavg")
    assert found is not None
    # patients differ by 20 Gy, but not from themselves
    assert (found.mean_gy, found.low_gy, found.high_gy) == pytest.approx((0.6, 0.6, 0.6), abs=0.002)
    assert found.p == pytest.approx(2.0**-19, rel=0.1), "twenty differences of one sign"
    assert "| median | 2 |" in (table := table_markdown(listed.rows, "fedavg", trials))
    assert "+0.60 (+0.60 to +0.60), p < 0.001" in table
    assert "Fewer than 3 seeds" in table
    assert "paper" not in table
    assert paired_difference([trial("median", 0, 3.0)], "median", "fedavg") is None


def test_patients_are_paired_across_partitions_where_their_ids_tell_them_apart() -> None:
    pooled = replace(trial("pooled", 0, 3.0), patients={"S1 pt_1": 3.0, "S2 pt_2": 4.0, "S2 pt_3": 5.0})
    split = replace(trial("split", 0, 3.0), patients={"A pt_1": 3.5, "A pt_2": 4.4, "B pt_3": 5.6})
    found = paired_difference([pooled, split], "split", "pooled")
    assert found is not None
    assert found.mean_gy == pytest.approx(0.5)
    # phantom hospitals number their patients each from one: the hospital is part of the name
    pooled = replace(pooled, patients={"S1 pt_1": 3.0, "S2 pt_1": 4.0})
    split = replace(split, patients={"A pt_1": 3.5, "B pt_1": 4.4})
    assert paired_difference([pooled, split], "split", "pooled") is None


def test_each_hospital_alone_stands_beside_its_federation_the_smallest_first() -> None:
    rows = VariantList.read("hospitals").rows
    patients = {f"{site} pt_{n}{site}": float(n) for site, count in (("A", 9), ("B", 3)) for n in range(count)}
    gains = {"A": 0.5, "B": 1.0}
    together = replace(trial("hospitals_4_federated", 0, 3.0), patients=patients)
    alone = replace(
        trial("hospitals_4_alone", 0, 3.0),
        patients={key: score + gains[key[0]] * (1 + score / 1000) for key, score in patients.items()},
        training_patients={"A": 60, "B": 20},
    )
    table = hospitals_markdown(rows, "pooled_4", [together, alone, trial("pooled_4", 0, 3.0)])
    lines = [line for line in table.splitlines() if line.startswith("| 4 hospitals")]
    assert len(lines) == 2
    assert "| B | 20 | 3* | 2.00 | 1.00 | -1.00 (-1.00 to -1.00), p 0.250 |" in lines[0]
    assert "| A | 60 | 9 | 4.50 | 4.00 | -0.50 (-0.50 to -0.50), p 0.004 |" in lines[1]
    assert hospitals_markdown(rows, "pooled_4", [together]) == "", "nobody trained alone"
    assert hospitals_markdown(rows, "pooled_4", [replace(alone, seed=1), together]) == "", "no seed in common"

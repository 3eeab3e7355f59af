"""Every list of simulations/conf/lists composes and is run at toy size, its reference and one row more."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rich.progress import Progress, TextColumn

from client.site.config import SiteConfig
from shared_model.core.errors import InputError
from simulations.series.ablation import run_ablation, trial_settings
from simulations.series.variants import LISTS, Absence, Clinic, Variant, VariantList
from simulations.settings.series import ablation_settings

# test_ablation.py has the list `paper`.
NAMES = sorted(path.stem for path in LISTS.glob("*.yaml") if path.stem != "paper")
TOY = [
    "rounds.count=2", "train.local_steps=1", "train.batch_size=1", "data.sites=2",
    "data.patients=4", "workers=1", "seeds=[0]", "steps=[1]",
]  # fmt: skip
# The row that is run beside the reference: the one that takes a way of its own.
ROWS = {
    "strategies": "fedper", "hospitals": "iid_4_alone", "rounds_steps": "r24_scaffold",
    "uneven": "late", "priors": "phantom_12", "decay": "strong",
    "data_sizes": "alone_2", "adapters": "lora4", "new_clinic": "tuned_5", "missing_modality": "dose_no_ct",
}  # fmt: skip


def bars() -> Progress:
    return Progress(TextColumn("{task.fields[note]}"), disable=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_row_composes_and_none_is_another(name: str, tmp_path: Path) -> None:
    listed = VariantList.read(name)
    settings = ablation_settings([f"list={name}", f"out={tmp_path}"])
    seen: dict[object, str] = {}
    for key in listed.choose(["all"]):
        run, row = trial_settings(settings, listed, key, 0), listed.rows[key]
        text = run.federation.to_json().replace(f"ablation-{key}", "")
        asked = (text, run.study, run.partition, run.data, run.prior_path, row.absent, row.clinic, row.without)
        assert asked not in seen, f"rows {key} and {seen[asked]} are the same"
        seen[asked] = key


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantom hospitals of all lists, made once."""
    return tmp_path_factory.mktemp("hospitals")


@pytest.mark.parametrize("name", NAMES)
def test_a_toy_run_ends_in_a_table(name: str, tmp_path: Path, hospitals: Path) -> None:
    listed = VariantList.read(name)
    other = ROWS[name]
    reference = listed.rows[other].reference or listed.reference
    list_file = tmp_path / "own.yaml"
    text = (LISTS / f"{name}.yaml").read_text()
    # A row's own numbers of rounds, steps and patients would not be a toy.
    text = re.sub(r"patients: \d+}|tune_steps=\d+", lambda m: "patients: 2}" if "}" in m[0] else "tune_steps=1", text)
    text = re.sub(r"rounds.count=\d+", "rounds.count=2", text)
    text = re.sub(r"train.local_steps=\d+", "train.local_steps=2", text)
    list_file.write_text(text)
    asked = [
        f"list={list_file}",
        f"variants=[{reference},{other}]",
        f"data.root={hospitals}",
        f"out={tmp_path / 'out'}",
    ]
    chosen = [o for key in (reference, other) for o in listed.rows[key].overrides if o.startswith("model.network=")]
    # What a user gets by default runs where a list asks most of a model; elsewhere the smaller network will do.
    default = name in ("missing_modality", "new_clinic")
    if "model.network=pyramid" not in chosen and not default:
        asked += ["model.shape=[16,16,16]", *(() if chosen else ("model.network=transformer",))]
    table = run_ablation(ablation_settings([*TOY, *asked]), bars())
    assert f"| {listed.rows[other].label} | 1 |" in table
    done = json.loads((tmp_path / "out" / other / "seed0" / "ablation.json").read_text())
    assert done["patients"]
    if done["trained"]["federation"]["model"]["network"] == "pyramid":
        kept = tmp_path / "out" / "channels"
        assert list(kept.glob("*.npy")), "the patients' channels are kept once"
        assert all(
            (tmp_path / "out" / key / "seed0" / "cache" / "channels").samefile(kept) for key in (reference, other)
        )
    if listed.rows[other].clinic:
        assert len({key.split()[0] for key in done["patients"]}) == 1, "the new clinic alone is scored"


def test_no_variant_is_called_as_all_of_them_are(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "reference: all\nstudy: federated\nvariants:\n  all: {label: everybody, overrides: []}\n"
    )
    with pytest.raises(InputError, match="a variant called all"):
        VariantList.read(str(tmp_path / "own.yaml"))


def test_absences_are_rounds() -> None:
    assert Absence(place=0, until=0.5).rounds(6) == (1, 2, 3)
    assert Absence(place=0, since=0.5).rounds(6) == (4, 5, 6)
    assert Absence(place=0, every=3).rounds(7) == (1, 2, 4, 5, 7)
    assert Absence(place=0).rounds(2) == (1, 2)


def sites() -> list[SiteConfig]:
    train = tuple(f"pt_{i}" for i in range(6))
    return [
        SiteConfig(site=name, data="cases", root=Path(), train=train, validation=("v",), plans=(train[:2],))
        for name in ("a", "b")
    ]


def test_a_new_clinic_has_few_patients_and_is_scored_alone() -> None:
    row = Variant(label="x", clinic=Clinic(place=1, patients=3), absent=(Absence(place=1),))
    assert [len(site.train) for site in row.change(sites())] == [6, 3]
    assert [site.site for site in row.scored(sites())] == ["b"]
    assert [(fault.site, fault.rounds) for fault in row.faults(sites(), 2)] == [("b", (1, 2))]
    with pytest.raises(InputError, match="6 training patients, not 9"):
        Variant(label="x", clinic=Clinic(place=0, patients=9)).change(sites())
    with pytest.raises(InputError, match="place 5"):
        Variant(label="x", absent=(Absence(place=5),)).faults(sites(), 2)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("study: alone", "study"),
        ("without: [mri]", "without"),
        ("reference: b", "reference 'b'"),
        ("away: 1", "row a: expected label and overrides, and of other keys only paper_mae_gy"),
        ("clinic: {seat: 1}", "row a: .*seat"),
    ],
)
def test_a_row_that_is_wrong_is_named(row: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"reference: a\nstudy: federated\nvariants: {{a: {{label: A, overrides: [], {row}}}}}\n")
    with pytest.raises(InputError, match=words):
        VariantList.read(str(path))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a: {label: A}", "row a: expected label and overrides"),
        ("a: {overrides: []}", "row a: expected label and overrides"),
        ("a: {label: A, overrides: train.lr=1}", r"row a: overrides: expected a list, as in \[train.lr=1e-3\]"),
        ("a: {label: A, overrides: [1]}", "row a: overrides: expected a list"),
        ("4: {label: A, overrides: []}", "row 4: YAML reads this name as int; put it in quotes"),
        ("off: {label: A, overrides: []}", "row False: YAML reads this name as bool"),
        ("a: {label: A, overrides: [model.shape=[16,16,16]}", "line 4: not YAML"),
    ],
)
def test_what_is_wrong_with_a_list_is_said_by_row_or_line(row: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"reference: a\nstudy: federated\nvariants:\n  {row}\n")
    with pytest.raises(InputError, match=words):
        VariantList.read(str(path))


def test_a_command_line_that_the_list_would_overrule_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    rows = "variants:\n  a: {label: a, overrides: [train.lr=3e-3]}\n"
    path.write_text(f"reference: a\nstudy: federated\ncommon: [train.weight_decay=0.1]\n{rows}")
    given = [f"list={path}", f"out={tmp_path / 'out'}"]
    with pytest.raises(
        InputError, match=r"train\.weight_decay=0\.2: the list has train\.weight_decay=0\.1 for every row"
    ):
        run_ablation(ablation_settings([*given, "train.weight_decay=0.2"]), bars())
    assert not (tmp_path / "out").exists()
    VariantList.read(str(path)).check(["train.weight_decay=0.1", "train.lr=1e-3"])


def test_a_wrong_key_in_a_row_is_named_with_the_row(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("reference: a\nstudy: federated\nvariants:\n  a: {label: a, overrides: [train.wieght_decay=0.1]}\n")
    listed = VariantList.read(str(path))
    settings = ablation_settings([f"list={path}", f"out={tmp_path}"])
    with pytest.raises(InputError, match=r"row a: .*no key 'train\.wieght_decay'"):
        trial_settings(settings, listed, "a", 0)


def test_a_prior_that_a_later_row_lacks_is_named_before_anything_trains(
    tmp_path: Path, hospitals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDKT3D_PRIOR", "")
    monkeypatch.setenv("FEDKT3D_WAN", "")
    monkeypatch.chdir(tmp_path)  # clips are trained first, into out/prior_clips
    asked = ["list=priors", "variants=[random_12,clips_12]", f"data.root={hospitals}", f"out={tmp_path / 'out'}"]
    with pytest.raises(InputError, match=r"row clips_12: model\.prior=file: .*prior_clips.*no such file"):
        run_ablation(ablation_settings([*TOY, *asked]), bars())
    assert not (tmp_path / "out").exists()

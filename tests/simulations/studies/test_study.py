"""`simulate run` on phantom hospitals with an untrained, tiny setting: everything is written, equal seeds, resumes."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress, TextColumn

from privacy.dp.accountant import epsilon
from server.rounds.result import QuorumError
from shared_model.adapter.manifest import load_adapter, vector_hash
from shared_model.core.errors import InputError
from simulations.reports.tables import read_summary
from simulations.settings.commands import evaluate_settings, run_settings
from simulations.settings.pretrain import pretrain_settings
from simulations.studies.evaluate import evaluate_adapter
from simulations.studies.pretrain import pretrain
from simulations.studies.study import check_alike, claim_folder, plan_jobs, run_studies

TINY = [
    "model.network=transformer", "model.prior=none", "model.shape=[16,16,16]", "rounds.count=2", "train.local_steps=2",
    "train.batch_size=1",
    "data.sites=2", "data.patients=3", "workers=2", "privacy.mode=none",
]  # fmt: skip


def bars() -> Progress:
    return Progress(TextColumn("{task.fields[note]}"), disable=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"data.root={tmp_path_factory.mktemp('hospitals')}"


def run(data: str, out: Path, *more: str) -> dict[str, object]:
    run_studies(run_settings([*TINY, data, f"out={out}", *more]), bars())
    return read_summary(out / "summary.json")


def test_all_three_studies_leave_everything_behind(data: str, tmp_path: Path) -> None:
    summary = run(data, tmp_path, "study=[federated,local,centralised]")
    assert list(summary["studies"]) == ["federated", "local", "centralised"]  # type: ignore[call-overload]
    assert summary["wire_bytes_per_round"] > 1_000_000  # type: ignore[operator]
    assert set(summary["studies"]["local"]["everywhere"]["per_model"]) == set(summary["sites"])  # type: ignore[index,call-overload]
    for name in ("metrics.md", "metrics.csv", "patients.csv", "curves.png", "config.yaml", "adapter.safetensors"):
        assert (tmp_path / name).stat().st_size > 0
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2
    curves = list(csv.DictReader((tmp_path / "curves.csv").open()))
    assert {row["round"] for row in curves if row["study"] == "federated"} == {"1", "2"}
    assert all(float(row["loss"]) > 0 for row in curves)
    _, vector, card = load_adapter(tmp_path / "adapter.safetensors")
    assert vector_hash(vector) == summary["studies"]["federated"]["adapter_sha256"]  # type: ignore[index,call-overload]
    assert card["rounds"] == 2
    assert card["metrics"]["dose_score_gy"] == round(summary["studies"]["federated"]["dose_score_gy"], 4)  # type: ignore[index,call-overload]


def test_why_sites_refuse_stands_in_a_file_that_the_error_names(data: str, tmp_path: Path) -> None:
    patience = ["rounds.attempts=1", "rounds.wait_for_sites_s=1"]
    settings = run_settings([*TINY, data, f"out={tmp_path}", "study=[federated]", *patience])
    with pytest.raises(QuorumError, match=r"refused \(data\).*sites\.log"):
        run_studies(settings, bars(), change=lambda sites: [replace(site, train=("nobody",)) for site in sites])
    assert "nobody" in (tmp_path / "sites.log").read_text()


def test_same_seed_same_adapter_whatever_the_workers(data: str, tmp_path: Path) -> None:
    hashes = [
        run(data, tmp_path / name, *more)["studies"]["federated"]["adapter_sha256"]  # type: ignore[index,call-overload]
        for name, more in {"a": ["workers=1"], "b": ["workers=2"], "c": ["seed=1"]}.items()
    ]
    assert hashes[0] == hashes[1]
    assert hashes[2] != hashes[0]


def test_regions_give_the_vector_of_the_federation_without_them(data: str, tmp_path: Path) -> None:
    vectors = []
    for name, more in {"flat": [], "tree": ["regions=2"]}.items():
        summary = run(data, tmp_path / name, "data.sites=3", "train.local_steps=1", "evaluate.sampler_steps=1", *more)
        assert len(summary["sites"]) == 3  # type: ignore[arg-type]
        vectors.append(load_adapter(tmp_path / name / "adapter.safetensors")[1])
        report = json.loads((tmp_path / name / "studies" / "federated" / "federation.json").read_text())
        if name == "tree":
            assert list(report["sites"]) == ["region-0", "region-1"]
    np.testing.assert_allclose(vectors[1], vectors[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("override", "words"),
    [("regions=-1", "regions"), ("privacy.mode=masked", "privacy.mode=none"), ("engine=ray", "engine=local")],
)
def test_where_regions_cannot_sum_they_are_refused(override: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        run_settings([*TINY, "regions=2", override])


def test_a_folder_of_before_there_were_regions_is_gone_on_with(tmp_path: Path) -> None:
    settings = run_settings([*TINY, f"out={tmp_path}"])
    claim_folder(settings)
    config = tmp_path / "config.yaml"
    older = config.read_text().replace("regions: 0\n", "")
    assert older != config.read_text()
    config.write_text(older)
    claim_folder(settings)
    with pytest.raises(InputError, match="regions"):
        claim_folder(run_settings([*TINY, f"out={tmp_path}", "regions=2"]))


def test_every_study_takes_equal_steps_and_patients(data: str, tmp_path: Path) -> None:
    settings = run_settings([*TINY, data, f"out={tmp_path}", "study=[federated,local,centralised]"])
    from simulations.data.datasets import hospitals

    sites = hospitals(settings.data, settings.partition, settings.out, 0)
    jobs = plan_jobs(settings, sites)
    steps = {job.federation.rounds.count * job.federation.train.local_steps for job in jobs}
    assert len(steps) == 1
    seen = {
        study: sum(len(j.sites) * j.federation.train.batch_size for j in jobs if j.study == study)
        for study in ("federated", "local", "centralised")
    }
    assert len(set(seen.values())) == 1


def test_other_settings_in_the_same_folder_are_refused_and_nothing_is_lost(data: str, tmp_path: Path) -> None:
    run(data, tmp_path)
    before = (tmp_path / "adapter.safetensors").read_bytes()
    with pytest.raises(InputError):
        run(data, tmp_path, "train.lr=5e-4")
    assert (tmp_path / "adapter.safetensors").read_bytes() == before


@pytest.mark.parametrize("change", ["data.patients=4", "data.sites=3", "evaluate.sampler_steps=2", "study=[local]"])
def test_results_of_other_data_or_studies_are_never_mixed(data: str, tmp_path: Path, change: str) -> None:
    """The round loop knows no data: it would go on from an adapter trained on other patients."""
    (tmp_path / "studies").mkdir()
    settings = run_settings([*TINY, data, f"out={tmp_path}", "study=[federated]"])
    claim_folder(settings)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert before
    with pytest.raises(InputError, match=change.split("=")[0]):
        claim_folder(run_settings([*TINY, data, f"out={tmp_path}", "study=[federated]", change]))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    for harmless in (
        "workers=1",
        "rounds.deadline_s=60",
        "rounds.wait_for_sites_s=60",
        "rounds.attempts=1",
        "study=[federated,local]",
    ):
        claim_folder(run_settings([*TINY, data, f"out={tmp_path}", harmless]))


def test_a_mean_over_seeds_is_of_runs_that_differ_in_nothing_else(tmp_path: Path) -> None:
    for name, more in {"a": [], "b": ["seed=1", "model.init_seed=1"], "c": ["seed=2", "rounds.count=5"]}.items():
        claim_folder(run_settings([*TINY, *more, f"out={tmp_path / name}"]))
    check_alike([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(InputError, match=r"rounds\.count=5, in .*a 2; expected runs that differ only in their seed"):
        check_alike([tmp_path / "a", tmp_path / "b", tmp_path / "c"])
    with pytest.raises(InputError, match=r"config\.yaml"):
        check_alike([tmp_path / "a", tmp_path / "nowhere"])


def test_evaluate_repeats_the_scores_of_the_run(data: str, tmp_path: Path) -> None:
    summary = run(data, tmp_path / "run")
    adapter = f"adapter={tmp_path / 'run' / 'adapter.safetensors'}"
    evaluate_adapter(evaluate_settings([adapter, data, "data.sites=2", "data.patients=3", f"out={tmp_path}"]), bars())
    again = json.loads((tmp_path / "summary.json").read_text())
    assert again["metrics"]["dose_score_gy"] == summary["studies"]["federated"]["dose_score_gy"]  # type: ignore[index,call-overload]
    assert again["metrics"]["patients"] == 2


def test_evaluate_and_pretrain_write_over_nothing(data: str, tmp_path: Path) -> None:
    run(data, tmp_path)
    before = (tmp_path / "summary.json").read_bytes()
    with pytest.raises(InputError, match="holds a run"):
        evaluate_adapter(evaluate_settings([data, f"out={tmp_path}"]), bars())
    assert (tmp_path / "summary.json").read_bytes() == before
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(InputError, match="holds a prior"):
        pretrain(pretrain_settings([f"out={tmp_path}"]), lambda *_: None)


@pytest.mark.e2e
def test_killed_anywhere_it_resumes_to_the_same_adapter(data: str, tmp_path: Path) -> None:
    whole = run(data, tmp_path / "whole", "rounds.count=4")
    command = [sys.executable, "-m", "simulations.cli", "run", *TINY, data, f"out={tmp_path / 'cut'}", "rounds.count=4"]
    events = tmp_path / "cut" / "studies" / "federated" / "events.jsonl"
    for rounds in (1, 3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if events.is_file() and events.read_text().count('"round_done"') >= rounds:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env={**os.environ}, check=False)
    assert done.returncode == 0, done.stderr
    cut = read_summary(tmp_path / "cut" / "summary.json")
    assert cut["studies"]["federated"]["adapter_sha256"] == whole["studies"]["federated"]["adapter_sha256"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "rouns=3"], "rouns"),
        (["run", "data=openkbp", "data.root=/nowhere"], "data.root"),
        (["evaluate", "adapter=/nowhere.safetensors"], "/nowhere.safetensors"),
        (["evaluate", "split=some"], "split"),
        (["phantom", "--out", "x", "--style", "none_such"], "none_such"),
        (["dance"], "dance"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    from simulations.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["simulate", *arguments])
    assert main() == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1
    assert words in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_a_private_run_says_what_it_cost(data: str, tmp_path: Path) -> None:
    """Three hospitals share the noise of two steps on the base; no loss leaves, and the ledgers have them all."""
    private = [
        "data.sites=3",
        "privacy.mode=shared",
        "train.local_steps=1",
        "privacy.z=2.0",
        "privacy.clip=0.05",
        "privacy.views=1",
    ]
    base = ["model.base=phantom", "model.adapter=base", "train.base_rounds=2"]
    summary = run(data, tmp_path, *private, *base)
    privacy = summary["privacy"]
    assert isinstance(privacy, dict)
    assert (privacy["mode"], privacy["z"], privacy["q"], privacy["steps"], privacy["delta"]) == (
        "shared",
        2.0,
        1.0,
        2,
        1e-5,
    )
    assert privacy["epsilon"] == pytest.approx(epsilon({(2.0, 1.0): 2}, 1e-5), abs=1e-3)
    alone = epsilon({(2.0 / 2**0.5, 1.0): 2}, 1e-5)
    assert privacy["epsilon_all_others_collude"] == pytest.approx(alone, abs=1e-3), "two of three share the noise"
    card = json.loads((tmp_path / "adapter.json").read_text())
    assert card["privacy"]["epsilon"] == privacy["epsilon"]
    assert "add/remove one patient" in card["privacy"]["statement"]
    ledgers = sorted((tmp_path / "studies" / "federated" / "ledgers").iterdir())
    assert [len((folder / "ledger.jsonl").read_text().splitlines()) for folder in ledgers] == [2, 2, 2]
    assert all(row["loss"] == "" for row in csv.DictReader((tmp_path / "curves.csv").open()))
    with pytest.raises(InputError, match="study=\\[federated\\]"):
        run_settings([*TINY, *private, "study=[federated,local]"])
    with pytest.raises(InputError, match=r"engine=ray: with privacy\.mode=shared"):
        run_settings([*TINY, *private, "engine=ray"])

"""Mode masked over TLS: four hospitals in real processes, and a wiretap with the coordinator's key.

The same hospitals then train in mode none. Its messages show what a single update, loss and score look like on the
wire, so that a search that finds none of them in mode masked is known to find them where they are.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.site.config import SiteConfig
from client.training.train import train_round
from privacy.secagg.exact_sums import MaskTerms
from server.config.privacy import mask_terms
from server.config.run import RunConfig
from server.config.schedule import train_task
from server.record.history import RoundRecord
from server.rounds.advance import replayed
from shared_model.adapter.manifest import initial_vector, load_adapter, stage_mask
from shared_model.core.vector import Vector
from shared_model.network.spec import ModelSpec
from tests.e2e.conftest import renamed
from tests.e2e.deployment import Deployment, change_policy
from tests.e2e.test_private_canary import found, pieces
from tests.e2e.wiretap import Wiretap

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

NAMES = ("east", "north", "south", "west")
COMMON = (
    # The network that a federation is for; its default would start from the bundled weights, which are larger.
    "model.size=small",
    "model.prior=none",
    "model.adapter=lora",
    "model.rank=2",
    "model.precision=fp32",
    "train.local_steps=3",
    "train.batch_size=1",
    "train.base_rounds=0",
    "rounds.count=2",
    "rounds.evaluate_every=2",
    "rounds.max_update_norm=20",
    "rounds.wait_for_sites_s=90",
    "rounds.deadline_s=240",
)
THREADS = torch.get_num_threads()
METRICS = (b"loss", b"dose_score_gy", b"mae_ref5_gy")


def site_configs(folder: Path, phantoms: dict[str, Path]) -> dict[str, Path]:
    """Four hospitals: of OpenKBP where its data are at hand, else phantoms."""
    if "FEDKT3D_OPENKBP" not in os.environ:
        return {**phantoms, "west": renamed(phantoms["east"], "west", folder)}
    root, made = Path(os.environ["FEDKT3D_OPENKBP"]).resolve(), {}
    partition = json.loads((root / "partitions" / "hospitals_4.json").read_text())["hospitals"]
    for name, hospital in zip(NAMES, sorted(partition), strict=True):
        patients = partition[hospital]["patients"]
        made[name] = folder / f"{name}.yaml"
        train, validation = tuple(patients["train"][:3]), tuple(patients["validation"][:1])
        SiteConfig(site=name, data="openkbp", root=root, train=train, validation=validation, threads=1).save(made[name])
    return made


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, hospitals: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """Both runs' outcomes, and what the coordinator heard in each of them."""
    folder = tmp_path_factory.mktemp("masked")
    deployment = Deployment(folder)
    configs = site_configs(folder, hospitals)
    try:
        deployment.start_coordinator()
        home = deployment.home
        with Wiretap(home / "tls" / "server.key", home / "tls" / "server.crt", deployment.ca, deployment.port) as tap:
            for name in NAMES:
                deployment.admit(name, deployment.make_site(name, configs[name], "masked"))
                change_policy(deployment.site(name), "require_plan: false", "require_plan: true")
                path = deployment.site(name) / "client.json"
                path.write_text(json.dumps({**json.loads(path.read_text()), "server": f"127.0.0.1:{tap.port}"}))
            masked = ("name=masked", "privacy.mode=masked", "privacy.cohort=12", *COMMON)
            deployment.must("server", "plan", "--home", home, *masked)
            for name in NAMES:
                deployment.must("client", "plan", "--home", deployment.site(name), "--accept", home / "plan.json")
                deployment.spawn("client", deployment.site(name))
            for name in NAMES:
                deployment.connected(name)
            outcome = deployment.run(*masked, timeout_s=800)
            heard = tap.heard
            for name in NAMES:
                (deployment.site(name) / "trust" / "plan.json").unlink()
                change_policy(deployment.site(name), "require_plan: true", "require_plan: false")
                change_policy(deployment.site(name), "modes: [masked]", "modes: [none]")
            before = len(tap.heard)
            plain = deployment.run("name=none", "privacy.mode=none", "rounds.keep=means", *COMMON, timeout_s=800)
            yield {
                "masked": outcome, "none": plain, "heard": heard, "clear": tap.heard[before:],
                "deployment": deployment,
                "sites": {name: replace(SiteConfig.load(path), site=name) for name, path in configs.items()},
            }  # fmt: skip
    finally:
        deployment.close()


def terms_of(outcome: dict[str, Any]) -> MaskTerms:
    """Terms of the exact sums of a run."""
    terms = mask_terms(RunConfig.from_json(json.dumps(outcome["report"]["config"])))
    assert terms is not None
    return terms


def updates_of(runs: dict[str, Any], number: int, vector: Vector) -> dict[str, tuple[Vector, float]]:
    """Each site's update of ``vector`` and its loss in a round, computed again."""
    config = RunConfig.from_json(json.dumps(runs["none"]["report"]["config"]))
    spec = ModelSpec.from_json(json.dumps(config.model))
    task = train_task(config, number, "")
    made = {}
    for name, site in runs["sites"].items():
        torch.set_num_threads(site.threads or THREADS)  # another number of threads sums in another order
        made[name] = train_round(site, spec, vector.copy(), task)
    torch.set_num_threads(THREADS)
    return {name: (update, metrics["loss"]) for name, (update, metrics) in made.items()}


def vectors(outcome: dict[str, Any]) -> list[Vector]:
    """The shared vector before the first round and after each, from the run's kept sums or means."""
    config = RunConfig.from_json(json.dumps(outcome["report"]["config"]))
    spec = ModelSpec.from_json(json.dumps(config.model))
    history = [RoundRecord.from_plain(entry) for entry in outcome["report"]["history"]]
    initial, out = initial_vector(spec), Path(outcome["adapter"]).parent
    return [initial, *(step.vector for step in replayed(out, config, initial, partial(stage_mask, spec), history))]


def test_each_round_is_that_of_mode_none_up_to_the_stated_step(runs: dict[str, Any]) -> None:
    """Round by round, each from the vector before it: a second round's training magnifies the first one's rounding."""
    terms = terms_of(runs["masked"])
    assert terms.error < 1e-6
    ours, theirs = vectors(runs["masked"]), vectors(runs["none"])
    assert len(ours) == len(theirs) == 3
    for run, error in ((ours, terms.error), (theirs, 0.0)):
        for number, (before, after) in enumerate(pairwise(run), 1):
            updates = updates_of(runs, number, before)
            patients = {name: len(runs["sites"][name].patients()) for name in NAMES}
            mean = sum(patients[name] * updates[name][0].astype(np.float64) for name in NAMES) / sum(patients.values())
            rounding = np.spacing(np.abs(after)).max()  # of float32
            assert np.abs(after - (before + mean)).max() <= error + rounding
            assert np.abs(mean).max() > 1000 * terms.error
    assert 0 < np.abs(ours[1] - theirs[1]).max() <= terms.error + np.spacing(np.abs(theirs[1])).max()
    assert np.array_equal(ours[2], load_adapter(Path(runs["masked"]["adapter"]))[1])


def test_the_coordinator_hears_no_update_loss_or_score_of_a_site(runs: dict[str, Any]) -> None:
    updates = updates_of(runs, 1, vectors(runs["none"])[0])
    terms = terms_of(runs["masked"])
    for name, (update, loss) in updates.items():
        plain = [p for p in pieces(update.tobytes(), 60) if len(set(p)) > 8]
        rings = [
            piece
            for weight in (len(runs["sites"][name].patients()), 1)
            for kind in (np.int32, np.int64)
            for piece in pieces(np.rint(update * (weight / terms.step)).astype(kind).tobytes(), 60)
            if len(set(piece)) > 8
        ]
        assert len(plain) > 20
        assert len(rings) > 60
        # The search finds them where they are.
        assert len(found(runs["clear"], plain)) > 0.8 * len(plain), name
        assert found(runs["heard"], [*plain, *rings]) == set(), name
        told = struct.pack("<d", loss)
        assert told in runs["clear"], name
        assert told not in runs["heard"], name
    # Not even the names of what sites measure: means travel as ring numbers.
    for metric in METRICS:
        assert metric in runs["clear"]
        assert metric not in runs["heard"]


def test_the_report_has_sums_and_no_site(runs: dict[str, Any]) -> None:
    report = runs["masked"]["report"]
    assert report["privacy"]["mode"] == "masked"
    for mine, plain in zip(report["history"], runs["none"]["report"]["history"], strict=True):
        assert mine["norms"] == {}
        assert mine["per_site"] == {name: {} for name in NAMES}
        assert mine["metrics"]["loss"] == pytest.approx(plain["metrics"]["loss"], rel=1e-3)
    ours, theirs = (runs[mode]["report"]["history"][-1]["evaluation"] for mode in ("masked", "none"))
    assert ours["per_site"] == {name: {} for name in NAMES}
    assert ours["metrics"]["dose_score_gy"] == pytest.approx(theirs["metrics"]["dose_score_gy"], rel=1e-3)
    card = json.loads(Path(runs["masked"]["adapter"]).with_suffix(".json").read_text())
    assert "A sum is not patient privacy" in card["privacy"]["statement"]


def test_a_doubted_sum_is_opened_by_the_hospitals_and_adds_up(runs: dict[str, Any]) -> None:
    """From the journal and the homes after the run, by commands alone: who kept what opens what was signed."""
    deployment, folder = runs["deployment"], runs["deployment"].folder
    deployment.must("server", "dispute", "2", "--home", deployment.home, "--run", "masked", "--out", folder / "signed")
    openings: list[str | Path] = []
    for name in NAMES:
        asked = ("client", "dispute", folder / "signed", "--home", deployment.site(name))
        assert f"{name}: fits what it signed" in deployment.must(*asked)
        refused = deployment.command(*asked, "--open", folder / f"{name}.opening")
        assert (refused.returncode, "--without-noise" in refused.stderr) == (2, True)
        deployment.must(*asked, "--open", folder / f"{name}.opening", "--without-noise")
        openings += ["--opening", folder / f"{name}.opening"]
    judged = ("server", "dispute", "2", "--home", deployment.home, "--run", "masked", "--json")
    told = json.loads(deployment.must(*judged, *openings))
    assert (told["whole"], told["sites"]) == (True, list(NAMES))
    # One bit of one number: the file's site is named, and no other.
    spoilt = bytearray((folder / "west.opening").read_bytes())
    spoilt[-1] ^= 1
    (folder / "west.opening").write_bytes(spoilt)
    blamed = deployment.command(*judged, *openings)
    assert blamed.returncode == 1
    wrong = {one["site"]: one["wrong"] for one in json.loads(blamed.stdout)["openings"]}
    assert [name for name in NAMES if wrong[name]] == ["west"]

"""Mode masked over TLS, with a hospital lost at each stage of a sum: before its keys, its shares, its vector, before it
signs who is in the sum, and before it helps to take the masks off. One run of real processes meets all five.

Lost is a kill -9 of the hospital's processes while the coordinator's message is on its way to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.setup.enrol import Data, create, join
from client.site.config import SiteConfig
from client.site.ledger_binding import MARK
from client.training.train import train_round
from privacy.trust.membership import AdmissionRequest
from server.config.privacy import mask_terms
from server.config.run import RunConfig
from server.config.schedule import train_task
from server.consortium.admission import register_of
from server.deployment.home import ServerHome
from server.record.history import RoundRecord
from server.rounds.advance import replayed
from server.rounds.masked_sum import SumForm
from shared_model.adapter.manifest import initial_vector, load_adapter, stage_mask
from shared_model.network.spec import ModelSpec
from tests.e2e.conftest import renamed
from tests.e2e.deployment import Deployment, change_policy
from tests.e2e.stages import Losses, StageProxy

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

NAMES = ("east", "north", "south", "west")
RUN = (
    "name=dropouts",
    "privacy.mode=masked",
    "privacy.cohort=12",
    "model.prior=none",
    "model.adapter=lora",
    "model.rank=2",
    "model.network=transformer",
    "model.shape=[16,16,16]",
    "model.precision=fp32",
    "train.local_steps=2",
    "train.batch_size=1",
    "train.base_rounds=0",
    "rounds.count=2",
    "rounds.attempts=8",
    "rounds.evaluate_every=0",
    "rounds.max_update_norm=20",
    "rounds.wait_for_sites_s=90",
    "rounds.deadline_s=60",
)
# A request to work is known by a word of its task.
WORK = "local_steps"
FIRST_ROUND = (("east", "secure_keys"), ("north", "secure_shares"), ("south", WORK), ("west", "secure_confirm"))
SECOND_ROUND = (("east", WORK), ("north", "secure_reveal"))


def admit(deployment: Deployment, name: str, site_config: Path) -> None:
    """`server invite`, `client init`, `server admit` and `client join`, in this process: that is not what is tested.

    The site takes part in mode masked alone, with no plan and no compared keys.
    """
    (SiteConfig.load(site_config).root / MARK).unlink(missing_ok=True)
    home, folder = ServerHome.load(deployment.home), deployment.folder
    with register_of(home) as register:
        (folder / f"{name}.invitation").write_bytes(register.invite(name, 14).to_json())
        data = Data(kind="cases", root=None, site_config=site_config)
        made = create(folder / f"{name}.invitation", deployment.site(name), data)
        request = AdmissionRequest.read(made.request_file.read_bytes())
        (folder / f"{name}.admission").write_bytes(register.admit(request, home.ca_key).file)
    join(made, folder / f"{name}.admission")
    for key in ("require_plan", "known_peers"):
        change_policy(made.folder, f"{key}: true", f"{key}: false")
    change_policy(made.folder, "modes: [shared]", "modes: [masked]")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, hospitals: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """The run's outcome, and the hospitals' configurations by name."""
    folder = tmp_path_factory.mktemp("dropouts")
    deployment, losses = Deployment(folder), Losses(*FIRST_ROUND, *SECOND_ROUND)
    configs = {**hospitals, "west": renamed(hospitals["east"], "west", folder)}
    lines: list[StageProxy] = []
    try:
        deployment.start_coordinator()
        for name in NAMES:
            admit(deployment, name, configs[name])
            lines.append(StageProxy(deployment, name, losses))
        for name in NAMES:
            # Without a plan, sums are over the sites of the roster: all need the one that the last was admitted with.
            newest = deployment.site(NAMES[-1]) / "trust" / "roster.json"
            (deployment.site(name) / "trust" / "roster.json").write_bytes(newest.read_bytes())
            deployment.spawn("client", deployment.site(name))
        for name in NAMES:
            deployment.connected(name)
        told = deployment.run(*RUN, timeout_s=1200)
        assert losses.left == []
        yield {**told, "sites": {name: replace(SiteConfig.load(path), site=name) for name, path in configs.items()}}
    finally:
        deployment.close()
        for line in lines:
            line.close()


def test_the_run_ends_with_every_hospital_in_every_sum(outcome: dict[str, Any]) -> None:
    history = [RoundRecord.from_plain(entry) for entry in outcome["report"]["history"]]
    assert [record.round for record in history] == [1, 2]
    assert all(sorted(record.sites) == sorted(NAMES) for record in history)


def test_a_round_is_tried_again_only_for_a_vector_that_did_not_come(outcome: dict[str, Any]) -> None:
    """Lost before its keys, shares or vector costs an attempt; lost after the vector costs none."""
    first, second = (RoundRecord.from_plain(entry) for entry in outcome["report"]["history"])
    dropped = {(drop.attempt, drop.site) for drop in first.drops}
    assert dropped == {(1, "east"), (2, "north"), (3, "south"), (4, "west")}
    assert first.attempt == 4
    # West has come back without its keys and east is lost at work: one attempt. North is lost after its vector.
    assert {(drop.attempt, drop.site) for drop in second.drops} == {(1, "west"), (1, "east"), (2, "north")}
    assert second.attempt == 2


def test_each_sum_is_that_of_the_four_updates(outcome: dict[str, Any]) -> None:
    config = RunConfig.from_json(json.dumps(outcome["report"]["config"]))
    spec = ModelSpec.from_json(json.dumps(config.model))
    terms, form, masks = mask_terms(config), SumForm.of(config), partial(stage_mask, spec)
    assert terms is not None
    assert form is not None
    history = [RoundRecord.from_plain(entry) for entry in outcome["report"]["history"]]
    vector = initial_vector(spec)
    for step in replayed(Path(outcome["out"]), config, vector, masks, history):
        task = train_task(config, step.record.round, "")
        updates = {name: train_round(site, spec, vector, task)[0] for name, site in outcome["sites"].items()}
        weights = {name: len(site.patients()) for name, site in outcome["sites"].items()}
        right = sum(weights[name] * updates[name].astype(np.float64) for name in NAMES) / sum(weights.values())
        summed = form.read(masks(task.stage), step.kept.ring).mean()
        assert np.abs(summed - right).max() <= 2 * terms.error
        assert np.abs(right).max() > 1000 * terms.error
        vector = step.vector
    assert load_adapter(Path(outcome["adapter"]))[1].tobytes() == vector.tobytes()

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from client.site.config import SiteConfig
from client.site.ledger_binding import MARK
from simulations.phantom.hospitals import STYLES, write_hospital
from tests.e2e.deployment import Deployment

# Enough to see a round through, and no more: what is trained is the business of other tests.
FAST = (
    "privacy.mode=none",
    "model.network=transformer",
    "model.prior=none",
    "train.local_steps=2",
    "train.batch_size=1",
    "evaluate.sampler_steps=1",
    "rounds.wait_for_sites_s=60",
    "rounds.deadline_s=120",
)


# Private rounds of the smallest model, on the network's dose alone.
TINY = (
    "privacy.clip=0.1",
    "privacy.views=1",
    "model.prior=none",
    "model.base=none",
    "model.adapter=lora",
    "model.rank=2",
    "model.network=transformer",
    "model.shape=[16,16,16]",
    "train.local_steps=1",
    "rounds.evaluate_every=0",
    "rounds.wait_for_sites_s=90",
    "rounds.deadline_s=60",
)


def renamed(site_config: Path, name: str, folder: Path) -> Path:
    """Another hospital with copies of the same patients, as a file in `folder`: a budget belongs to a data folder."""
    path, config = folder / f"{name}.yaml", SiteConfig.load(site_config)
    root = shutil.copytree(config.root, folder / f"{name}-data", ignore=shutil.ignore_patterns(MARK))
    replace(config, site=name, root=root).save(path)
    return path


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Site configurations of three phantom hospitals."""
    root = tmp_path_factory.mktemp("hospitals")
    styles = list(STYLES.values())
    made = {}
    for seed, name in enumerate(("north", "south", "east")):
        config = write_hospital(root / name, styles[seed % len(styles)], 3, seed)
        made[name] = root / f"{name}.yaml"
        replace(config, threads=1).save(made[name])
    return made


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, hospitals: dict[str, Path]) -> Iterator[Deployment]:
    """A coordinator and two connected hospitals."""
    deployment = Deployment(tmp_path_factory.mktemp("federation"))
    try:
        deployment.start_coordinator()
        for name in ("north", "south"):
            deployment.join(name, hospitals[name])
        for name in ("north", "south"):
            deployment.connected(name)
        yield deployment
    finally:
        deployment.close()

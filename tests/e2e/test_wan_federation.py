"""LoRA over Wan's weights, trained by two hospitals that each hold the checkpoint as files; and published."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from peft import LoraConfig

from client.data.case_files import save_case
from shared_model.adapter.hub import PEFT_WEIGHTS
from shared_model.adapter.manifest import initial_vector, load_adapter, vector_bytes
from simulations.phantom.hospitals import STYLES, phantom_case
from tests.builders.wan_files import write_checkpoint
from tests.e2e.conftest import FAST
from tests.e2e.deployment import Deployment

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MODEL = (
    "model.network=transformer", "model.prior=wan", "model.adapter=lora", "model.rank=2", "model.shape=[9,16,32]",
    "model.precision=fp32",
)  # fmt: skip


@pytest.fixture(scope="module")
def consortium(
    tmp_path_factory: pytest.TempPathFactory, hospitals: dict[str, Path], wan_checkpoint: Path
) -> Iterator[Deployment]:
    """The coordinator and one hospital have whole files, the other the same weights in shards."""
    folder = tmp_path_factory.mktemp("wan-federation")
    shards = write_checkpoint(folder / "shards", shards="200KB")
    deployment = Deployment(folder)
    try:
        deployment._environment["FEDKT3D_WAN"] = str(wan_checkpoint)
        deployment.start_coordinator()
        deployment.join("north", hospitals["north"])
        deployment._environment["FEDKT3D_WAN"] = str(shards)
        deployment.join("south", hospitals["south"])
        deployment._environment["FEDKT3D_WAN"] = str(wan_checkpoint)
        for name in ("north", "south"):
            deployment.connected(name)
        yield deployment
    finally:
        deployment.close()


def test_two_hospitals_train_lora_on_the_wan_that_each_has(
    consortium: Deployment, hospitals: dict[str, Path], wan: Path, tmp_path: Path
) -> None:
    fast = [word for word in FAST if not word.startswith("model.")]
    ended = consortium.run("name=wan", "rounds.count=2", *fast, *MODEL, timeout_s=500)
    report = ended["report"]
    assert report["sites"] == {"north": 2, "south": 2}
    assert report["drops"] == []
    spec, vector, card = load_adapter(Path(str(ended["adapter"])))
    assert len(spec.prior_sha256) == 64
    assert card["prior"] == {"name": "wan", "sha256": spec.prior_sha256}
    assert np.abs(vector - initial_vector(spec)).max() > 0
    # Of the weights nothing travels: a round is the low-rank numbers to and from each site, and little else.
    assert 4 * vector_bytes(spec) <= report["wire_bytes_per_round"] < 4 * vector_bytes(spec) + 100_000

    public = tmp_path / "public"
    consortium.must("server", "publish", public, "--home", consortium.home, "--run", "wan")
    assert (public / PEFT_WEIGHTS).is_file()
    assert LoraConfig.from_pretrained(str(public)).r == 2

    # At a hospital: its copy of Wan's weights and the published numbers give a patient's dose.
    case = tmp_path / "ph_1.npz"
    save_case(case, replace(phantom_case(1, STYLES["openkbp_like"], (32, 64, 64)), case_id="ph_1"))
    found = next(public.glob("*.safetensors"))
    told = consortium.must("client", "predict", case, "--adapter", found, "--out", tmp_path / "dose", "--json")
    record = json.loads(told)
    assert record["metrics_gy"]
    assert (tmp_path / "dose" / record["files"][0]).stat().st_size > 0
    consortium._environment.pop("FEDKT3D_WAN")
    refused = consortium.command("client", "predict", case, "--adapter", found, "--out", tmp_path / "other")
    assert refused.returncode != 0
    assert "FEDKT3D_WAN" in refused.stderr

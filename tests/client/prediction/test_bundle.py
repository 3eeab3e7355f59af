"""The MONAI bundle: MONAI finds what it needs, the network has the declared shape, the dose is `client predict`'s.

MONAI's metadata schema is not in its wheel. ``FEDKT3D_MONAI_SCHEMA=FILE`` (a copy of the schema that metadata.json
names) also runs MONAI's own verify_metadata.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out

from client.data.case_files import save_case
from client.prediction.bundle import DoseNetwork
from client.prediction.bundle_files import SCHEMA, export_bundle
from client.prediction.predict import Predictor, Sampled
from shared_model.adapter.manifest import initial_vector, save_adapter
from shared_model.bundled import DEFAULT_ADAPTER
from shared_model.core.errors import InputError
from shared_model.network.spec import ModelSpec
from tests.builders.small_study import ellipsoid_case

COPY = os.environ.get("FEDKT3D_MONAI_SCHEMA")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "dose"
    files = export_bundle(DEFAULT_ADAPTER, out)
    assert {"configs/metadata.json", "configs/inference.json", "docs/README.md", "models/model.pt"} <= set(files)
    return out


def workflow(bundle: Path, **changes: str) -> ConfigWorkflow:
    return ConfigWorkflow(
        workflow_type="infer",
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        bundle_root=str(bundle),
        device="cpu",
        **changes,
    )


def test_a_patient_gets_the_dose_of_client_predict(bundle: Path, tmp_path: Path) -> None:
    case = ellipsoid_case()
    (tmp_path / "in").mkdir()
    save_case(tmp_path / "in" / "patient.npz", case)
    flow = workflow(bundle, dataset_dir=str(tmp_path / "in"), output_dir=str(tmp_path / "out"))
    flow.initialize()
    assert flow.check_properties() == []
    (folders,) = flow.run()
    expected = Predictor(device="cpu").predict(case, Sampled()).dose_gy
    with np.load(Path(folders[0]) / "dose.npz") as written:
        np.testing.assert_array_equal(written["dose_gy"], expected)
    assert expected.max() > 40.0


def test_the_network_takes_and_gives_what_the_metadata_says(bundle: Path) -> None:
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        device="cpu",
        n=3,
        bundle_root=str(bundle),
    )


def test_the_state_dictionary_is_the_adapters_network(bundle: Path) -> None:
    network = DoseNetwork(str(bundle / "models" / "adapter.safetensors"), device="cpu")
    kept = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
    assert set(kept) == set(network.state_dict())


def test_the_metadata_names_its_schema_and_every_channel(bundle: Path) -> None:
    told = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert told["schema"] == SCHEMA
    image = told["network_data_format"]["inputs"]["image"]
    assert len(image["channel_def"]) == image["num_channels"]
    assert set(told["required_packages_version"]) == {"fedkt3d"}


@pytest.mark.skipif(COPY is None, reason="FEDKT3D_MONAI_SCHEMA names no copy of MONAI's schema")
def test_monai_takes_the_metadata(bundle: Path) -> None:
    verify_metadata(meta_file=str(bundle / "configs" / "metadata.json"), filepath=COPY)


def test_another_network_and_a_folder_in_use_are_refused(bundle: Path, tmp_path: Path) -> None:
    spec = ModelSpec(prior="none", shape=(16, 16, 16))
    save_adapter(tmp_path / "adapter.safetensors", spec, initial_vector(spec))
    with pytest.raises(InputError, match=r"a bundle needs model\.network=pyramid"):
        export_bundle(tmp_path / "adapter.safetensors", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="is not empty"):
        export_bundle(DEFAULT_ADAPTER, bundle)

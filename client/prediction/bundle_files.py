"""`simulate export-bundle`: an adapter's predictor as a MONAI bundle, which ``python -m monai.bundle run`` runs.

Layout and metadata follow MONAI's bundle specification (docs.monai.io, "MONAI Bundle Specification"). What the bundle
needs beside MONAI is this package: its parts are in bundle.py, so that its dose is that of `client predict`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from client.prediction.bundle import CHANNELS, DoseNetwork
from shared_model.adapter.card import card_path
from shared_model.channels.layout import NAMES
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_bytes, write_text
from shared_model.patient.case import CONDITIONS

SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"
# The least release that the bundle has been run with, where none is installed.
LEAST_MONAI = "1.6.1"
ADAPTER = "adapter.safetensors"
_HERE = "client.prediction.bundle"


def export_bundle(adapter: Path, out: Path) -> list[str]:
    """Write the bundle of an adapter's file to the new folder ``out``; returns its files by their relative paths.

    InputError if the adapter cannot be read or is not of the pyramid, or if ``out`` holds files already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is not empty; a bundle needs a new folder (nothing was written)")
    network = DoseNetwork(str(adapter), device="cpu")
    card = network.predictor.card
    weights = io.BytesIO()
    torch.save(network.state_dict(), weights)
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / "models" / ADAPTER, adapter.read_bytes(), mode=ORDINARY)
    if card:
        card_bytes = card_path(adapter).read_bytes()
        write_bytes(card_path(out / "models" / ADAPTER), card_bytes, mode=ORDINARY)
    write_bytes(out / "models" / "model.pt", weights.getbuffer(), mode=ORDINARY)
    for name, content in (("metadata", metadata(network)), ("inference", inference())):
        write_text(out / "configs" / f"{name}.json", json.dumps(content, indent=4) + "\n", mode=ORDINARY)
    write_text(out / "docs" / "README.md", _readme(card), mode=ORDINARY)
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def metadata(network: DoseNetwork) -> dict[str, Any]:
    """The content of ``configs/metadata.json``."""
    card = network.predictor.card
    channels = {str(k): name for k, name in enumerate(name for m in CONDITIONS for name in NAMES[m])}
    volume = {"type": "image", "format": "channels", "spatial_shape": ["8*n", "8*n", "8*n"], "dtype": "float32"}
    return {
        "schema": SCHEMA,
        "version": version("fedkt3d"),
        "changelog": {version("fedkt3d"): f"adapter {network.predictor.name}"},
        "monai_version": _installed("monai", LEAST_MONAI),
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"fedkt3d": version("fedkt3d")},
        "task": "Radiotherapy dose prediction",
        "description": "Predicts the dose of a radiotherapy plan from CT, targets, organs at risk and beams, by a"
        " diffusion network whose adapter hospitals train together (FedKT3D).",
        "authors": "The FedKT3D authors",
        "copyright": "Apache-2.0 for the software; the adapter's owners decide about the weights",
        "data_type": "dicom, npz",
        "intended_use": "Research. No medical device: a physicist judges every dose.",
        "eval_metrics": {key: float(value) for key, value in card.get("metrics", {}).items()},
        "network_data_format": {
            "inputs": {
                "image": {
                    **volume,
                    "num_channels": CHANNELS,
                    "value_range": [],
                    "is_patch_data": False,
                    "channel_def": channels,
                }
            },
            "outputs": {
                "pred": {
                    **volume,
                    "num_channels": 1,
                    "value_range": [0, 2],
                    "is_patch_data": False,
                    "channel_def": {"0": "dose in units of the highest prescription"},
                }
            },
            "post_processed_outputs": {
                "pred": {
                    **volume,
                    "spatial_shape": ["*", "*", "*"],
                    "num_channels": 1,
                    "value_range": [],
                    "channel_def": {"0": "dose in Gy on the patient's own grid"},
                }
            },
        },
    }


def inference() -> dict[str, Any]:
    """The content of ``configs/inference.json``: every file of ``dataset_dir`` is one patient."""
    return {
        "imports": ["$import pathlib"],
        "bundle_root": ".",
        "device": "auto",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "network_def": {
            "_target_": f"{_HERE}.DoseNetwork",
            "adapter": f"$@bundle_root + '/models/{ADAPTER}'",
            "device": "@device",
        },
        "preprocessing": {"_target_": f"{_HERE}.ReadPatient"},
        "dataset": {
            "_target_": "monai.data.Dataset",
            "data": "$[{'image': str(path)} for path in sorted(pathlib.Path(@dataset_dir).iterdir())]",
            "transform": "@preprocessing",
        },
        "inferer": {"_target_": f"{_HERE}.DoseInferer", "samples": 1, "steps": 1, "seed": 0, "twice": True},
        "postprocessing": {
            "_target_": f"{_HERE}.WriteAnswer",
            "output_dir": "@output_dir",
            "network": "@network_def",
        },
        "evaluator": {
            "_target_": f"{_HERE}.PatientEvaluator",
            "dataset": "@dataset",
            "network": "@network_def",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }


def _installed(package: str, otherwise: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return otherwise


def _readme(card: Mapping[str, Any]) -> str:
    statement = card.get("privacy", {}).get("statement", "Not known: the adapter has no card.")
    return f"""# Dose prediction (FedKT3D)

Predicts a radiotherapy dose from CT, targets, organs at risk and beams. For research only.

```
pip install 'fedkt3d[monai]'
python -m monai.bundle run --config_file configs/inference.json --meta_file configs/metadata.json \\
  --bundle_root . --dataset_dir DIR --output_dir OUT
```

Each file or DICOM folder in `DIR` is one patient, as `client predict` reads them. `OUT` gets a folder a patient with
the files that `client predict` writes; the dose is the same. Its RTDOSE carries the patient's identifiers.

- `models/{ADAPTER}`: the weights that are loaded, `models/adapter.json` their card.
- `models/model.pt`: the same weights as the state dictionary of `network_def`, for MONAI's own tools.
- `network_def` alone takes channels (`configs/metadata.json` names them) and leaves out what single beams tell. The
  inferer gives the network those too.

**Privacy of the weights.** {statement}
"""

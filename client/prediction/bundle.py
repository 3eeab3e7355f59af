"""The parts of a MONAI bundle of the predictor, which its ``configs/inference.json`` names (bundle_files.py writes it).

They are `client predict` in MONAI's words: a network module, a transform that reads one patient, an inferer, a
transform that writes the answer, and an evaluator that runs them one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from client.prediction.files import write_answer
from client.prediction.predict import Predictor, Sampled
from client.prediction.subject import load_subject
from shared_model.channels.layout import SCALE, Layout
from shared_model.core.errors import InputError
from shared_model.network.pyramid import USUAL_MM, Conditions, PyramidDiT
from shared_model.patient.case import CONDITIONS

# The channels of a patient without the volumes of single beams, and without dose.
LAYOUT = Layout(beams=0)
CHANNELS = LAYOUT.channels - 1


class DoseNetwork(nn.Module):
    """``network_def``: the network of an adapter's file, as one module.

    ``forward`` is its mean dose from the channels of all conditions, (1, CHANNELS, z, y, x) float32 with sizes that are
    multiples of 8, in units of the highest prescription, (1, 1, z, y, x), 0 outside the body. Beams one by one are not
    among these channels: for a patient's dose use DoseInferer, which has them.
    """

    def __init__(self, adapter: str, device: str = "auto") -> None:
        """InputError where the adapter cannot be read, or is not of the network that works on volumes (pyramid)."""
        super().__init__()
        self.predictor = Predictor(Path(adapter), device=device)
        network = self.predictor.model.network
        if not isinstance(network, PyramidDiT):
            raise InputError(f"{adapter}: a bundle needs model.network=pyramid; this adapter is of another network")
        self.network = network

    def forward(self, image: Tensor, spacing_mm: tuple[float, float, float] = USUAL_MM) -> Tensor:
        """See the class; ``spacing_mm`` (z, y, x) of the voxels."""
        volumes = {m: image[:, LAYOUT.of(m)] for m in CONDITIONS}
        state = torch.zeros_like(image[:, :1])
        mean, unit = SCALE["dose"]
        answer = self.network(Conditions(volumes=volumes, spacing_mm=spacing_mm), "dose", state, state.new_ones(1))
        inside = image[:, LAYOUT.index("body")][:, None] > 0.5
        dose: Tensor = ((answer * unit + mean) * inside).clamp_min(0.0)
        return dose


class ReadPatient:
    """``preprocessing``: the path of one patient's file or DICOM folder -> what `client predict` reads of it."""

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """``image``: the path. Adds ``subject``."""
        return {**item, "subject": load_subject(Path(item["image"]))}


class DoseInferer:
    """``inferer``: draws a patient's dose as `client predict` does, with the same defaults."""

    def __init__(self, samples: int = 1, steps: int = 1, seed: int = 0, twice: bool = True) -> None:
        self.how = Sampled(samples=samples, steps=steps, seed=seed, twice=twice)

    def __call__(self, item: Mapping[str, Any], network: DoseNetwork) -> dict[str, Any]:
        """Adds ``answer`` and ``pred``, the dose (1, z, y, x) in Gy on the patient's grid."""
        subject = item["subject"]
        answer = network.predictor.predict(subject.case, self.how, subject.notes)
        return {**item, "answer": answer, "pred": torch.from_numpy(answer.dose_gy)[None]}


class WriteAnswer:
    """``postprocessing``: the files of `client predict`, in a folder a patient below ``output_dir``."""

    def __init__(self, output_dir: str, network: DoseNetwork) -> None:
        self._folder, self._predictor = Path(output_dir), network.predictor

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Adds ``folder``."""
        answer = item["answer"]
        folder = self._folder / answer.case.case_id
        folder.mkdir(parents=True, exist_ok=True)
        write_answer(folder, answer, self._predictor, item["subject"].origin)
        return {**item, "folder": str(folder)}


class PatientEvaluator:
    """``evaluator``: each patient of the dataset once. It keeps the folders alone, and no patient."""

    def __init__(
        self,
        dataset: Iterable[Mapping[str, Any]],
        network: DoseNetwork,
        inferer: DoseInferer,
        postprocessing: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    ) -> None:
        self._dataset, self._network, self._inferer, self._postprocessing = dataset, network, inferer, postprocessing

    def run(self) -> list[str]:
        """Predict every patient; returns the folders that were written."""
        return [str(self._postprocessing(self._inferer(item, self._network))["folder"]) for item in self._dataset]

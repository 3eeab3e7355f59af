"""The private adapter: low-rank weights on top of the shared model that a hospital trains for itself and keeps.

Private weights cannot get into a message. Messages are made of the vector that ``manifest.pack`` returns, and ``pack``
refuses a model that carries private weights. The adapter can neither be pickled nor copied out as an array. Only its
owner can read its file, and no reader of shared adapters accepts the file's format.

What it trains, each form of the model says (shared_model/forms, ``private_lora``).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from shared_model.adapter.manifest import unpack, vector_hash
from shared_model.adapter.shared import PRIVATE, adapted_model
from shared_model.base.model import DoseModel
from shared_model.core.errors import InputError
from shared_model.core.files import write_bytes
from shared_model.core.vector import Vector
from shared_model.forms.interface import form_of
from shared_model.network.seeding import seeded
from shared_model.network.spec import ModelSpec

FORMAT = "fedkt3d-private/1"
OLD = f"{PRIVATE}_old"


@dataclass(frozen=True, kw_only=True)
class PrivateShape:
    """``rank`` and ``alpha`` of LoRA. ``attention``: what the model uses while it carries private weights.

    Condition-causal attention computes a patient's conditions once for all candidates and noise times. This makes
    alignment several times cheaper. A model that was trained with full attention learns to use it during alignment
    (docs/decisions/0030-private-attention.md).
    """

    rank: int = 16
    alpha: int = 32
    attention: str = "condition-causal"


class PrivateAdapter:
    """A private adapter's weights by module, and the hash of the shared vector that they were trained on."""

    def __init__(self, weights: Mapping[str, Tensor], shape: PrivateShape, shared_sha256: str) -> None:
        self.shape, self.shared_sha256 = shape, shared_sha256
        self._weights = {name: value.detach().clone() for name, value in weights.items()}

    def __reduce_ex__(self, _protocol: Any) -> NoReturn:
        raise TypeError("a private adapter stays at its site: it cannot be pickled or copied")

    def save(self, path: Path) -> None:
        """Write the file whole or not at all. Only its owner can read it (0600)."""
        header = {"format": FORMAT, "shape": json.dumps(asdict(self.shape)), "shared": self.shared_sha256}
        content = save({name: value.contiguous() for name, value in sorted(self._weights.items())}, header)
        write_bytes(path, content)

    @classmethod
    def load(cls, path: Path) -> PrivateAdapter:
        """Read a private adapter. InputError if the file is damaged or holds something else."""
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                if header.get("format") != FORMAT:
                    raise InputError(f"{path}: not a private adapter; expected a file that `client align` wrote")
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (a file, not a mapping)
                return cls(weights, PrivateShape(**json.loads(header["shape"])), header["shared"])
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise InputError(f"{path}: cannot be read as a private adapter ({type(error).__name__})") from None

    def copy_into(self, layers: Mapping[str, nn.Parameter], path: str = "private adapter") -> None:
        """Copy the weights into a model's parameters. InputError if their names or shapes do not fit the model."""
        if {n: v.shape for n, v in self._weights.items()} != {n: p.shape for n, p in layers.items()}:
            raise InputError(f"{path}: was trained on a model of another shape; run `client align` again")
        with torch.no_grad():
            for name, parameter in layers.items():
                parameter.copy_(self._weights[name])


class PrivatePolicy:
    """A model with two sets of private weights: the set that trains, and the old policy that draws the candidates."""

    def __init__(self, spec: ModelSpec, vector: Vector, shape: PrivateShape, seed: int = 0) -> None:
        self.spec = spec
        if spec.network == "transformer":  # the pyramid's conditions never see the target
            self.spec = replace(spec, switches=replace(spec.switches, attention=shape.attention))
        self.form = form_of(self.spec)
        self.shape = shape
        self.shared_sha256 = vector_hash(vector)
        self.model: DoseModel = adapted_model(self.spec)
        unpack(self.model, vector)
        self.model.eval()
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        # If the shared adapter is LoRA, peft has already added its layers.
        self._shared = ["shared"] if any(isinstance(m, BaseTunerLayer) for m in self.model.modules()) else []
        config = LoraConfig(r=shape.rank, lora_alpha=shape.alpha, target_modules=list(self.form.private_lora))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft warns about a second adapter, but we want one
            for name in (PRIVATE, OLD):
                with seeded(seed):  # both start with the same weights
                    inject_adapter_in_model(config, self.model.network, adapter_name=name)
        self._layers = [m for m in self.model.modules() if isinstance(m, BaseTunerLayer)]
        self.use(PRIVATE)

    def parameters(self, name: str = PRIVATE) -> dict[str, nn.Parameter]:
        """The parameters of the policy ``name``, by their names without the policy's name."""
        mark = f".{name}."
        return {n.replace(mark, "."): p for n, p in self.model.network.named_parameters() if mark in n}

    def use(self, name: str | None) -> DoseModel:
        """Return the model with one policy active: ``PRIVATE``, ``OLD``, or None for the shared model alone.

        Only the weights of ``PRIVATE`` take gradients, and only while it is active.
        """
        for layer in self._layers:
            has = set(dict(layer.named_modules())["lora_A"].keys())
            active = [a for a in (*self._shared, name) if a is not None and a in has]
            layer.enable_adapters(bool(active))
            if active:
                layer.set_adapter(active, inference_mode=True)
        for parameter in self.parameters().values():
            parameter.requires_grad_(name == PRIVATE)
        return self.model

    def follow(self, keep: float) -> None:
        """Move the old policy towards the trained one: it keeps the share ``keep`` (0 to 1) of itself."""
        old = self.parameters(OLD)
        with torch.no_grad():
            for name, parameter in self.parameters().items():
                old[name].lerp_(parameter, 1.0 - keep)

    def adapter(self) -> PrivateAdapter:
        """The trained weights. They stay at the site."""
        return PrivateAdapter(self.parameters(), self.shape, self.shared_sha256)


def aligned_policy(spec: ModelSpec, vector: Vector, private: PrivateAdapter) -> PrivatePolicy:
    """The shared model with a private adapter. InputError if that one was trained on another shared adapter."""
    if private.shared_sha256 != vector_hash(vector):
        raise InputError(
            f"private adapter: trained on the shared adapter {private.shared_sha256[:12]}, this is"
            f" {vector_hash(vector)[:12]}; run `client align` again"
        )
    policy = PrivatePolicy(spec, vector, private.shape)
    private.copy_into(policy.parameters())
    policy.follow(0.0)
    return policy

"""What both ends of a federation must agree on about the model: architecture, prior, adapter, training grid."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields

from shared_model.errors import InputError

ADAPTERS: tuple[str, ...] = ("full", "lora+embeddings", "lora")
BASES: tuple[str, ...] = ("none", "ridge")
# The coefficients travel in the spec, which a message limits to 20,000 characters.
MAX_BASE_FOURIER = 2500
# A coordinator's specification decides what a site allocates: 128^3 is the native resolution of OpenKBP, and twice that
# is room for longer fields of view.
MAX_VOXELS = 2 * 128**3
MAX_RANK, MAX_ALPHA = 1024, 65_536


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes of Any2AnyDiT. The defaults (0.97M parameters) are those of the bundled prior.

    A 2x2x2 patch of Haar latents is 4x8x8 voxels, 128 tokens a modality at 32^3. From scratch on OpenKBP it reached a
    dose score of 9.4 Gy in 82 CPU-s, where a 1x2x2 patch (256 tokens) stood at 15.9 Gy after 85 CPU-s.
    """

    dim: int = 112
    heads: int = 2
    ffn_dim: int = 448
    layers: int = 3
    freq_dim: int = 256
    latent_channels: int = 32
    patch: tuple[int, int, int] = (2, 2, 2)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The model of one federation. Canonical JSON of this travels; weights of the prior never do.

    ``prior``: ``small`` (bundled) or ``none`` (random start from ``init_seed``). ``adapter``: what trains and travels.
    ``rank`` and ``alpha`` of LoRA. ``shape``: training grid (z, y, x) that covers each patient's body.
    ``precision`` of the forward pass: ``bf16`` (weights and sums stay float32) or ``fp32``.
    ``base``: ``none`` (the paper's form) or ``ridge``, where the model learns dose minus a closed-form estimate
    (shared_model/base.py) with ``base_fourier`` random features; ``base_weights`` are its coefficients once fitted.
    """

    prior: str = "small"
    init_seed: int = 0
    adapter: str = "full"
    rank: int = 16
    alpha: int = 16
    shape: tuple[int, int, int] = (32, 32, 32)
    precision: str = "bf16"
    base: str = "none"
    base_fourier: int = 500
    base_weights: str = ""

    def __post_init__(self) -> None:
        if self.adapter not in ADAPTERS:
            raise InputError(f"model.adapter={self.adapter!r}: expected one of {', '.join(ADAPTERS)}")
        if self.prior not in ("small", "none"):
            raise InputError(f"model.prior={self.prior!r}: expected small or none")
        if self.precision not in ("bf16", "fp32"):
            raise InputError(f"model.precision={self.precision!r}: expected bf16 or fp32")
        # The values are not quoted: one may have thousands of digits.
        for key, low, high in (("init_seed", 0, 2**63 - 1), ("rank", 1, MAX_RANK), ("alpha", 1, MAX_ALPHA)):
            if not low <= getattr(self, key) <= high:
                raise InputError(f"model.{key}: expected {low} to {high}")
        if len(self.shape) != 3 or any(n < 8 or n % 8 for n in self.shape):
            raise InputError(f"model.shape={self.shape}: expected three multiples of 8 (z, y, x)")
        if math.prod(self.shape) > MAX_VOXELS:
            raise InputError(f"model.shape={self.shape}: expected at most {MAX_VOXELS} voxels, as 128 x 128 x 256")
        self._check_base()

    def _check_base(self) -> None:
        if self.base not in BASES:
            raise InputError(f"model.base={self.base!r}: expected one of {', '.join(BASES)}")
        if not 0 <= self.base_fourier <= MAX_BASE_FOURIER:
            raise InputError(f"model.base_fourier: expected 0 to {MAX_BASE_FOURIER}")
        if self.base_weights and self.base == "none":
            raise InputError("model.base_weights: given without model.base=ridge")

    def to_json(self) -> str:
        """Canonical form: sorted keys, no spaces; without a base nothing is said of one."""
        values = asdict(self)
        if self.base == "none":
            values = {key: value for key, value in values.items() if not key.startswith("base")}
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Inverse of ``to_json``; InputError names an unknown key or a value of the wrong type."""
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:  # also a number of thousands of digits
            raise InputError("model spec: not JSON") from error
        if not isinstance(raw, dict):
            raise InputError("model spec: expected a JSON object")
        numbers: dict[str, type] = dict.fromkeys(("init_seed", "rank", "alpha", "base_fourier"), int)
        texts: dict[str, type] = dict.fromkeys(("prior", "adapter", "precision", "base", "base_weights"), str)
        types: dict[str, type] = {**texts, **numbers, "shape": list}
        for key, value in raw.items():
            if key not in types:
                raise InputError(f"model spec: unknown key {key!r}; expected {', '.join(f.name for f in fields(cls))}")
            if not isinstance(value, types[key]) or isinstance(value, bool):
                raise InputError(f"model spec: {key} is {type(value).__name__}, expected {types[key].__name__}")
        if "shape" in raw:
            if not all(type(n) is int for n in raw["shape"]):
                raise InputError("model spec: shape holds something that is not a whole number")
            raw["shape"] = tuple(raw["shape"])
        return cls(**raw)

"""The model specification, which every party of a federation shares: architecture, prior, adapter, training grid."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

from shared_model.core.errors import InputError
from shared_model.network.switches import Switches
from shared_model.patient.anatomy import BODY_SITES, HEAD_NECK

# Which network, and the adapters that each knows (shared_model/forms).
ADAPTERS_OF: Mapping[str, tuple[str, ...]] = {
    "pyramid": ("full", "lora+embeddings", "lora", "ffa-lora", "film", "bias", "head"),
    "transformer": ("full", "blocks", "lora+embeddings", "lora", "ffa-lora", "base"),
}
ADAPTERS: tuple[str, ...] = ("full", "blocks", "lora+embeddings", "lora", "base", "film", "bias", "head", "ffa-lora")
# A coordinator's specification decides how much memory a site allocates. 128^3 is the native resolution of OpenKBP;
# twice that leaves room for longer fields of view.
MAX_VOXELS = 2 * 128**3
MAX_RANK, MAX_ALPHA = 1024, 65_536
# Sizes of the pyramid (network/pyramid.py); the transformer has one.
BASE_SIZE = "base"
PYRAMID_SIZES: tuple[str, ...] = ("small", BASE_SIZE)
# Priors of each network: a random start, bundled ones, and weights from files.
PRIORS_OF: Mapping[str, tuple[str, ...]] = {
    "pyramid": ("none", "bundled", "phantom", "file"),
    "transformer": ("video-small", "video-shuffled", "phantom-small", "none", "wan"),
}
# Of the pyramid's priors that ship with the package.
SIZE_OF_PRIOR: Mapping[str, str] = {"bundled": BASE_SIZE, "phantom": "small"}
# Priors of which every party has its own copy, known by the hash of its weights.
FROM_FILES = ("file", "wan")
_SHA256 = re.compile(r"[0-9a-f]{64}")


PRECISIONS = ("bf16", "fp32")
# Bases by their names in ``ModelSpec.base``: ``module:class`` of a Base (shared_model/base/interface.py). The names are
# known without its code, which needs torch.
NO_BASE = "none"
BASES: Mapping[str, str] = {
    NO_BASE: "shared_model.base.none:NoBase",
    "phantom": "shared_model.base.phantom:PhantomBase",
}
# Bases of earlier versions, whose adapters are still about.
FORMER_BASES = ("ridge", "voxel")
# What every run's configuration had for their sake, whatever its base was.
FORMER_KEYS: Mapping[str, object] = {"base_fourier": 500}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes of Any2AnyDiT. The defaults (1.2M parameters) are those of the bundled prior.

    A 2x2x2 patch of Haar latents is 4x8x8 voxels, or 128 tokens for each modality at 32^3. Trained from scratch on
    OpenKBP, it reached a dose score of 9.4 Gy in 82 CPU-s. A 1x2x2 patch (256 tokens) was at 15.9 Gy after 85 CPU-s.
    ``text_constant``: every block adds a vector in place of attention to text (shared_model/backbone/wan.py).
    """

    dim: int = 128
    heads: int = 2
    ffn_dim: int = 512
    layers: int = 3
    freq_dim: int = 256
    latent_channels: int = 32
    patch: tuple[int, int, int] = (2, 2, 2)
    text_constant: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The model of one federation. It travels as canonical JSON. The prior's weights never travel.

    ``network``: ``pyramid``, the U-shaped network on a patient's own grid, or ``transformer``, the paper's form on
    latents of the training grid. The pyramid has neither grid, switches nor base. ``size``, of the pyramid alone:
    ``base`` (9.4M parameters) or ``small`` (1.7M), at 0.3 of the time a sample.

    ``prior``: ``none`` (random start from ``init_seed``); of the pyramid also ``bundled`` (the default adapter's
    weights), ``phantom`` (made by phantoms) or ``file`` (backbone/pyramid_prior.py); of the transformer a bundled one
    (``video-small``; its control ``video-shuffled``; ``phantom-small``) or ``wan`` (Wan 2.1). ``prior_sha256``: the
    content hash of weights that each party has in files; empty means those of the coordinator. ``adapter``: what trains
    and travels (shared_model/forms). With ``base`` only the base trains, and its dose is the prediction. ``rank`` and
    ``alpha`` are those of LoRA.
    ``shape``: the training grid (z, y, x), which covers each patient's body. For Wan's video autoencoder the number of
    slices (z) is best 4k + 1 (shared_model/backbone/wan_vae.py). ``precision`` of the forward pass: ``bf16`` (weights
    and sums stay float32) or ``fp32``. ``switches``: how the model differs from the default one.

    ``base``: ``none`` (the paper's form), or the base whose dose is subtracted from the dose that the model learns.
    ``phantom`` is 64 numbers that correct what was learned on phantoms (shared_model/base/phantom.py). They are part of
    the vector.

    ``body_site``: whose organs are the model's inputs (patient/anatomy.py). The transformer knows head and neck alone.
    """

    network: str = "transformer"
    size: str = BASE_SIZE
    body_site: str = HEAD_NECK
    prior: str = "video-small"
    prior_sha256: str = ""
    init_seed: int = 0
    adapter: str = "full"
    rank: int = 16
    alpha: int = 16
    shape: tuple[int, int, int] = (32, 32, 32)
    precision: str = "bf16"
    switches: Switches = field(default_factory=Switches)
    base: str = NO_BASE

    def __post_init__(self) -> None:
        if self.network not in ADAPTERS_OF:
            raise InputError(f"model.network={self.network!r}: expected one of {', '.join(ADAPTERS_OF)}")
        if self.adapter not in ADAPTERS_OF[self.network]:
            known = ", ".join(ADAPTERS_OF[self.network])
            raise InputError(
                f"model.adapter={self.adapter!r}: expected one of {known} with model.network={self.network}"
            )
        if self.prior not in PRIORS_OF[self.network]:
            known = ", ".join(PRIORS_OF[self.network])
            raise InputError(
                f"model.prior={self.prior!r}: with network {self.network} expected one of {known}; others need another"
                " model.network"
            )
        self._check_size()
        if self.prior_sha256 and (self.prior not in FROM_FILES or _SHA256.fullmatch(self.prior_sha256) is None):
            raise InputError(
                f"model.prior_sha256: expected 64 hex digits with model.prior={' or '.join(FROM_FILES)}, else nothing"
            )
        if self.body_site not in BODY_SITES:
            raise InputError(f"model.body_site={self.body_site!r}: expected one of {', '.join(BODY_SITES)}")
        if self.body_site != HEAD_NECK and self.network != "pyramid":
            raise InputError(f"model.body_site={self.body_site}: expected model.network=pyramid, or {HEAD_NECK}")
        if self.precision not in PRECISIONS:
            raise InputError(f"model.precision={self.precision!r}: expected bf16 or fp32")
        # The errors do not quote the values, since one may have thousands of digits.
        for key, low, high in (("init_seed", 0, 2**63 - 1), ("rank", 1, MAX_RANK), ("alpha", 1, MAX_ALPHA)):
            if not low <= getattr(self, key) <= high:
                raise InputError(f"model.{key}: expected {low} to {high}")
        if self.network == "pyramid":
            self._check_pyramid()
            return
        self._check_shape()
        self._check_switches()
        self._check_base()

    def _check_size(self) -> None:
        sizes = PYRAMID_SIZES if self.network == "pyramid" else (BASE_SIZE,)
        if self.size not in sizes:
            raise InputError(f"model.size={self.size!r}: with network {self.network} expected {' or '.join(sizes)}")
        if self.network == "pyramid" and self.size != SIZE_OF_PRIOR.get(self.prior, self.size):
            raise InputError(
                f"model.size={self.size}: the weights of model.prior={self.prior} are of size "
                f"{SIZE_OF_PRIOR[self.prior]}; or say model.prior=none"
            )

    def _check_pyramid(self) -> None:
        default = type(self)()
        for key, fitting in (("shape", default.shape), ("switches", default.switches), ("base", NO_BASE)):
            if getattr(self, key) != fitting:
                told = "the default" if key == "switches" else fitting
                raise InputError(
                    f"model.{key}: expected {told} with model.network=pyramid; others need model.network=transformer"
                )

    def _check_shape(self) -> None:
        if self.prior == "wan":
            if len(self.shape) != 3 or self.shape[0] < 5 or any(n < 16 or n % 16 for n in self.shape[1:]):
                raise InputError(
                    f"model.shape={self.shape}: with model.prior=wan expected (z, y, x) with z at least 5 "
                    "(best 4k + 1) and y, x multiples of 16"
                )
        elif len(self.shape) != 3 or any(n < 8 or n % 8 for n in self.shape):
            raise InputError(f"model.shape={self.shape}: expected three multiples of 8 (z, y, x)")
        if math.prod(self.shape) > MAX_VOXELS:
            raise InputError(f"model.shape={self.shape}: expected at most {MAX_VOXELS} voxels, as 128 x 128 x 256")

    def _check_switches(self) -> None:
        if self.prior != "wan":
            return
        for key, fitting in (("predicts", ("v",)), ("rope", ("overlay", "none"))):
            if getattr(self.switches, key) not in fitting:
                raise InputError(
                    f"model.switches.{key}={getattr(self.switches, key)!r}: expected {' or '.join(fitting)} with "
                    "model.prior=wan; Wan's weights were trained to predict flow under its own rotary phases"
                )

    def _check_base(self) -> None:
        if not isinstance(self.base, str):
            raise InputError(f"model.base={self.base!r}: expected one of {', '.join(BASES)}")
        if self.base in FORMER_BASES:
            raise InputError(
                f"model.base={self.base}: this base is no longer known; an adapter with it was made by an earlier"
                " version: use the version of fedkt3d that its card names, or train anew with model.network=pyramid or"
                " model.base=phantom"
            )
        if self.base not in BASES:
            raise InputError(f"model.base={self.base!r}: expected one of {', '.join(BASES)}")
        if self.base_alone and not self.has_base:
            raise InputError("model.adapter=base: expected model.base=phantom; without a base nothing would train")

    @property
    def has_base(self) -> bool:
        """Whether the network learns the dose minus a base's dose, and the base's weights are part of the vector."""
        return self.base != NO_BASE

    @property
    def base_alone(self) -> bool:
        """Whether only the base trains. Then its dose is the prediction."""
        return self.adapter == "base"

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces.

        A switch or size at its default, an empty hash of the prior, head and neck as the site of the body and an
        absent base are not written. So a new field does not change the identity of earlier adapters, nor that of runs
        that do not use it.
        """
        raw = {**asdict(self), "switches": self.switches.changed()}
        unsaid = {key for key in ("switches", "prior_sha256") if not raw[key]}
        unsaid |= set() if self.has_base else {"base"}
        unsaid |= {"body_site"} if self.body_site == HEAD_NECK else set()
        unsaid |= {"size"} if self.size == BASE_SIZE else set()
        unsaid |= {"shape"} if self.network == "pyramid" else {"network"}
        raw = {key: value for key, value in raw.items() if key not in unsaid}
        return json.dumps(raw, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Inverse of ``to_json``. InputError names an unknown key or a value of the wrong type."""
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:  # also a number of thousands of digits
            raise InputError("model spec: not JSON") from error
        if not isinstance(raw, dict):
            raise InputError("model spec: expected a JSON object")
        numbers: dict[str, type] = dict.fromkeys(("init_seed", "rank", "alpha"), int)
        texts = {f.name: str for f in fields(cls) if f.type == "str"}
        types: dict[str, type] = {**texts, **numbers, "shape": list, "switches": dict}
        if raw.get("base") in FORMER_BASES:  # before its other keys are found to be unknown
            cls(base=raw["base"])
        for key, value in raw.items():
            if key not in types:
                raise InputError(f"model spec: unknown key {key!r}; expected {', '.join(f.name for f in fields(cls))}")
            if not isinstance(value, types[key]) or isinstance(value, bool):
                raise InputError(f"model spec: {key} is {type(value).__name__}, expected {types[key].__name__}")
        if "shape" in raw:
            if not all(type(n) is int for n in raw["shape"]):
                raise InputError("model spec: shape holds something that is not a whole number")
            raw["shape"] = tuple(raw["shape"])
        if "switches" in raw:
            raw["switches"] = Switches.from_raw(raw["switches"])
        return cls(**raw)

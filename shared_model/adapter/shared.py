"""The shared adapter on top of the prior: the part of the model that trains and travels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from shared_model.backbone.prior import load_prior
from shared_model.base.interface import base_of
from shared_model.base.model import BASE_PREFIX, DoseModel
from shared_model.network.seeding import seeded
from shared_model.network.spec import ModelSpec

# Names as peft matches them: each is the end of a module's dotted path.
LORA_MODULES = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
# In the names of a model's parameters this marks weights that never leave their site (shared_model/adapter/private.py).
PRIVATE = "private"
# Parts of the residual form that no prior has. They must train, since frozen they would do nothing.
RESIDUAL_MODULES = ("estimate.", BASE_PREFIX)
EMBEDDING_MODULES = (*RESIDUAL_MODULES, "patch.", "head.", "role.", "table.", "table_out.", "norm_q.", "norm_k.")


def _is_embedding(name: str) -> bool:
    return any(name.startswith(m) or f".{m}" in name for m in EMBEDDING_MODULES)


def _is_low_rank(name: str) -> bool:
    return ".lora_" in name or name.startswith(RESIDUAL_MODULES)


# Adapter -> whether it trains a parameter of a stored name.
_TRAINS: Mapping[str, Callable[[str], bool]] = {
    "full": lambda name: True,
    "blocks": lambda name: name.startswith("blocks.") or _is_embedding(name),
    "lora+embeddings": lambda name: _is_low_rank(name) or _is_embedding(name),
    "lora": _is_low_rank,
    "base": lambda name: name.startswith(BASE_PREFIX),
}


def adapted_model(spec: ModelSpec) -> DoseModel:
    """The prior with the adapter of ``spec``. Only the adapter's parameters require gradients.

    ``full`` trains every weight. ``lora`` trains low-rank updates of the linear layers of the blocks (peft); they start
    from ``init_seed``. ``lora+embeddings`` also trains patch embeddings, heads, role embedding and modulation tables.
    ``blocks`` trains the same embeddings and, in place of LoRA, every weight of the blocks. ``base`` trains only the
    base. The role embedding always trains with the embeddings: a video prior has none, so it starts at zero and would
    do nothing if frozen. The timestep's embedding and projection stay frozen in all but ``full``.
    """
    model = DoseModel(load_prior(spec), base_of(spec).network())
    if spec.adapter.startswith("lora"):
        config = LoraConfig(r=spec.rank, lora_alpha=spec.alpha, target_modules=list(LORA_MODULES))
        with seeded(spec.init_seed):
            inject_adapter_in_model(config, model.network, adapter_name="shared")
    for name, parameter in model.stored_parameters():
        parameter.requires_grad_(_TRAINS[spec.adapter](name))
    return model


def trainable(model: DoseModel) -> dict[str, nn.Parameter]:
    """Stored name -> parameter, for every parameter that requires gradients, in the order of the vector."""
    return {name: p for name, p in model.stored_parameters() if p.requires_grad}


def holds_private(model: nn.Module) -> bool:
    """Whether the model carries weights that must not leave the site."""
    return any(f".{PRIVATE}" in name for name, _ in model.named_parameters())

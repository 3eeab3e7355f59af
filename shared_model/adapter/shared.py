"""The shared adapter on top of the prior: the part of the model that trains and travels."""

from __future__ import annotations

from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from shared_model.base.interface import base_of
from shared_model.base.model import DoseModel
from shared_model.forms.interface import form_of
from shared_model.network.seeding import seeded
from shared_model.network.spec import ModelSpec

# In the names of a model's parameters this marks weights that never leave their site (shared_model/adapter/private.py).
PRIVATE = "private"


def adapted_model(spec: ModelSpec) -> DoseModel:
    """The prior with the adapter of ``spec``. Only the adapter's parameters require gradients.

    Which these are, each form of the model says (shared_model/forms). Low-rank updates (peft) start from ``init_seed``.
    """
    form = form_of(spec)
    model = DoseModel(form.network(), base_of(spec).network())
    if "lora" in spec.adapter:
        config = LoraConfig(r=spec.rank, lora_alpha=spec.alpha, target_modules=list(form.lora))
        with seeded(spec.init_seed):
            inject_adapter_in_model(config, model.network, adapter_name="shared")
    for name, parameter in model.stored_parameters():
        parameter.requires_grad_(form.trains(name))
    return model


def trainable(model: DoseModel) -> dict[str, nn.Parameter]:
    """Stored name -> parameter, for every parameter that requires gradients, in the order of the vector."""
    return {name: p for name, p in model.stored_parameters() if p.requires_grad}


def holds_private(model: nn.Module) -> bool:
    """Whether the model carries weights that must not leave the site."""
    return any(f".{PRIVATE}" in name for name, _ in model.named_parameters())

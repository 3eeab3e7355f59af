"""Settings in the help of `simulate run`: its own first, then those of `server run`."""

from __future__ import annotations

from omegaconf import DictConfig

from server.config.settings_help import SHARED, Settings

OWN: Settings = {
    "simulation: who is compared, on which patients": {
        "out": "Folder for the results.",
        "study": "What to compare, a list: federated, local (each hospital alone), centralised (all patients pooled).",
        "partition": "Hospitals of OpenKBP: hospitals_4, hospitals_8, iid_4, iid_8 or quantity_8.",
        "data.kind": "phantom, openkbp or clips. Choose it with data=openkbp data.root=DIR.",
        "data.sites": "Number of phantom hospitals.",
        "data.patients": "Patients of each phantom hospital.",
        "data.body_site": "Part of the body that phantoms are: head_neck or pelvis.",
        "address": "HOST:PORT of a running Ray cluster's head, for engine=ray; null: a Ray of this machine.",
        "workers": "Sites or studies that train side by side.",
        "threads": "CPU threads of each.",
        "regions": "Regions that sum their sites' updates for the coordinator, without privacy; 0: none.",
        "device": "Where the network computes: auto, cpu, cuda, cuda:N, cuda:N,M or mps.",
    },
}
# `simulate run` counts these from its partition, so it refuses them as settings.
COUNTED = ("privacy.cohort", "privacy.sites")


def run_help() -> tuple[Settings, DictConfig]:
    """The settings of `simulate run`, and simulations/conf/run.yaml without overrides."""
    from simulations.settings.composition import compose_config

    shared = {title: {key: text for key, text in keys.items() if key not in COUNTED} for title, keys in SHARED.items()}
    return {**OWN, **shared}, compose_config("run", [])

"""Help texts of the settings that `server run`, `server plan` and `simulate run` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import click
from omegaconf import DictConfig, OmegaConf
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

# Group -> key -> what it decides. One plain line each; the whole list is in server/conf/base.yaml.
Settings = Mapping[str, Mapping[str, str]]
SHARED: Settings = {
    "name and start": {
        "name": "Name of the run.",
        "seed": "Start of all random numbers except those of the privacy noise.",
        "initial": "Adapter file to start from. Empty: the prior.",
    },
    "privacy: what hides patients": {
        "privacy.mode": "shared, local, site or none. none: the coordinator sees each site's update.",
        "privacy.epsilon": "Most privacy loss of the whole run.",
        "privacy.statistics": "Part of epsilon for noised counts of the patients: the card's ranges. 0: none.",
        "privacy.delta": "Delta that belongs to epsilon.",
        "privacy.clip": "Largest norm of a patient's gradient. In mode site: of a site's update.",
        "privacy.cohort": "Number of patients at all sites. Private modes need it; simulate run counts them.",
        "privacy.colluders": "Number of sites that may help the coordinator to spy on the others.",
    },
    "rounds: how often, with whom, how patiently": {
        "rounds.count": "Number of rounds.",
        "rounds.min_sites": "Fewest sites in a round. 0: follows from the mode and the number of sites.",
        "rounds.buffer": "Mode none: end a round with so many updates and take late ones later. 0: wait for all.",
        "rounds.deadline_s": "Seconds that a round waits for its sites.",
        "rounds.evaluate_every": "Number of rounds between two scorings at the sites. 0: never.",
    },
    "model: what learns and travels": {
        "model.network": "pyramid (U-shaped), or transformer (the paper's form).",
        "model.size": "Of network pyramid: base, or small at 0.3 of the time a sample.",
        "model.body_site": "Whose organs the model sees: head_neck, thorax or pelvis.",
        "model.prior": "Weights to start from: none; pyramid: bundled, phantom, file; transformer: video-small, wan.",
        "model.adapter": "What trains and travels: full, lora; pyramid: film, bias, head; transformer: blocks, base.",
        "model.base": "Dose estimate that the transformer corrects: none or phantom.",
        "model.shape": "The transformer's training grid in voxels: z, y, x.",
    },
    "train: what a site does in a round": {
        "train.local_steps": "Training steps in a round.",
        "train.batch_size": "Patients in a step.",
        "train.lr": "Learning rate of the first round. It falls over the rounds.",
    },
    "aggregate: what the coordinator does with the updates": {
        "aggregate.rule": "mean, trimmed, median, or product of LoRA's factors.",
        "aggregate.name": "fedavg, fedavgm or fedadam.",
        "train.proximal": "FedProx: pull of a site's weights to the shared ones.",
        "train.control": "scaffold: correct each site's steps by what all sites did. none: do not.",
        "train.personal": "FedPer: starts of the names of tensors that stay at the sites, as in table_out.",
        "aggregate.weighting": "Weight of a site: patients (their number) or equal.",
    },
    "evaluate: how the model is scored": {
        "evaluate.sampler_steps": "Sampling steps for a predicted dose.",
    },
}


def help_page(settings: Settings, config: DictConfig) -> Group:
    """A group's title, then each of its keys with its default and one line. ``config``: composed without overrides."""
    rows = {title: {_with_default(config, key): line for key, line in keys.items()} for title, keys in settings.items()}
    width = max(len(given) for keys in rows.values() for given in keys)
    parts: list[RenderableType] = [Text("Settings are given as KEY=VALUE. Here each stands with its default:")]
    for title, keys in rows.items():
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(min_width=width + 2, no_wrap=True)
        for given, line in keys.items():
            table.add_row(Text(f"  {given}"), Text(line))
        parts += [Text(f"\n{title}", "bold"), table]
    return Group(*parts, Text("\n* This default follows from another key, such as privacy.mode."))


def _with_default(config: DictConfig, key: str) -> str:
    """KEY=DEFAULT as a user would type it, with a star if the default depends on another key."""
    value, (group, _, name) = OmegaConf.select(config, key), key.rpartition(".")
    if OmegaConf.is_list(value):
        value = f"[{','.join(map(str, value))}]"
    holder = OmegaConf.select(config, group) if group else config
    depends = OmegaConf.is_interpolation(holder, name)
    return f"{key}={'null' if value is None else value}{' *' if depends else ''}"


def command_with_settings(command: str, found: Callable[[], tuple[Settings, DictConfig]]) -> type[TyperCommand]:
    """Make a command class whose `--help` ends with the settings. It calls ``found`` only to print that help.

    ``command``: the name to write before `--cfg job`, which prints all keys.
    """

    class WithSettings(TyperCommand):
        """Typer's command with the settings below its options."""

        def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            """Print typer's help, then the settings."""
            super().format_help(ctx, formatter)
            Console().print(help_page(*found()), f"`{command} --cfg job` prints all keys with their values.")

    return WithSettings


def shared_settings() -> tuple[Settings, DictConfig]:
    """The settings of `server run` and `server plan`, and server/conf/run.yaml without overrides."""
    from server.config.compose import compose_config

    return SHARED, compose_config([])

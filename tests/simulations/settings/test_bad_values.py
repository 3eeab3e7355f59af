"""Any value of the wrong kind under any key of any command: an error that names the key, or a value that is of use."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from shared_model.core.errors import FedKT3DError
from simulations.settings import commands, faults, pretrain, scorecards, series
from simulations.settings.composition import compose_values
from simulations.studies import audit, private_base, private_cohorts, public_set, sampling, tradeoff, train_backbone

# Module and function of each command's settings.
READERS: dict[str, tuple[Any, Callable[[Sequence[str]], object]]] = {
    "run": (commands, commands.run_settings),
    "evaluate": (commands, commands.evaluate_settings),
    "baselines": (commands, commands.baselines_settings),
    "ablation": (series, series.ablation_settings),
    "transfer": (series, series.transfer_settings),
    "poison": (series, series.poison_settings),
    "faults": (faults, faults.faults_settings),
    "scorecards": (scorecards, scorecards.scorecards_settings),
    "pretrain": (pretrain, pretrain.pretrain_settings),
    "train": (train_backbone, train_backbone.train_settings),
    "sampling": (sampling, sampling.sampling_settings),
    "tradeoff": (tradeoff, tradeoff.tradeoff_settings),
    "audit": (audit, audit.audit_settings),
    "private_base": (private_base, private_base.private_base_settings),
    "private_cohorts": (private_cohorts, private_cohorts.private_cohorts_settings),
    "public_set": (public_set, public_set.public_set_settings),
}
BAD: tuple[object, ...] = ("x", -1, [], ["x"], None, True, {"a": 1}, 1.5, float("nan"), 3, 10**30)


def keys(values: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Places of single values. Hydra itself refuses a group that is no group."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from keys(value, (*above, key))
        else:
            yield (*above, key)


@pytest.mark.parametrize("command", READERS)
def test_a_value_of_the_wrong_kind_is_an_error_of_ours_and_names_its_key(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, read = READERS[command]
    data = ["data=phantom"] if command in ("train", "tradeoff", "private_base") else []
    whole, text = compose_values(command, data)
    refused, unnamed = 0, []
    for place in keys(whole):
        for bad in BAD:
            values = copy.deepcopy(whole)
            inner = values
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = bad

            def composed(name: str, overrides: Sequence[str], values: dict[str, Any] = values) -> tuple[Any, str]:
                return values, text

            monkeypatch.setattr(module, "compose_values", composed)
            try:
                read([])
            except FedKT3DError as error:
                refused += 1
                if place[-1] not in str(error) and place[0] not in str(error):
                    unnamed.append(f"{place}={bad!r}: {error}")
            except Exception as error:
                pytest.fail(f"simulate {command} {'.'.join(place)}={bad!r}: {type(error).__name__}: {error}")
    assert not unnamed
    assert refused > 2 * len(BAD)


@pytest.mark.parametrize("key", ["lr", "weight_decay", "dvh_weight", "finish", "decay", "seed", "precision"])
def test_a_recipe_of_words_is_refused_before_any_patient_is_read(key: str) -> None:
    with pytest.raises(FedKT3DError, match=f"{key}='x'"):
        train_backbone.train_settings(["data=phantom", f"{key}=x"])


@pytest.mark.parametrize("read", [commands.run_settings, train_backbone.train_settings])
def test_several_devices_need_no_quotes_on_the_command_line(read: Callable[[Sequence[str]], Any]) -> None:
    assert read(["data=phantom", "device=cuda:0,1"]).device == "cuda:0,1"


def test_a_network_of_the_head_and_neck_is_not_trained_on_pelvises() -> None:
    with pytest.raises(FedKT3DError, match=r"model\.body_site=head_neck"):
        train_backbone.train_settings(["data=phantom", "data.body_site=pelvis"])

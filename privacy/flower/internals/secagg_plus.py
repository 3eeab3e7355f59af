"""CPU seconds of Flower's own SecAgg+ at one client and at the server, from the functions that it calls.

The client's part is whole: set-up, shares, quantising and masking one vector, giving shares. The server's part is the
unmask stage with one client gone; its sum of masked vectors is a vector of zeros, since the cost does not depend on it.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ConfigRecord
from flwr.common import ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import quantize
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

# The package has a function of the module's name in the module's place.
mod: Any = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")

# The workflow's own defaults.
CLIP, TARGET, MODULUS, MAX_WEIGHT = 8.0, 4194304, 4294967296, 1000.0


def flower_costs(parameters: int, sites: int, threshold: int, seed: int) -> dict[str, float]:
    """Measure one round: ``client_s``, of which ``quantise_s``, ``unmask_s`` (CPU), and ``up_bytes`` of a client."""
    vector: Any = np.random.default_rng(seed).normal(0, 0.01, parameters).astype(np.float32)
    states = {nid: mod.SecAggPlusState() for nid in range(sites)}
    for nid, state in states.items():
        state.nid = nid
    started = time.process_time()
    keys = {0: _keys(states[0], sites, threshold)}
    client = time.process_time() - started
    keys |= {nid: _keys(state, sites, threshold) for nid, state in states.items() if nid}
    others = {nid: _shares(state, keys) for nid, state in states.items() if nid}

    started = time.process_time()
    shared = _shares(states[0], keys)
    inbox = {source: sent[0] for source, sent in others.items()}
    masked = _mask(states[0], inbox, vector)
    client += time.process_time() - started
    up = sum(len(c) for c in shared.values()) + sum(len(part) for part in masked[Key.MASKED_PARAMETERS])
    for nid, state in states.items():
        if nid:
            sent = {source: other[nid] for source, other in others.items() if source != nid} | {0: shared[nid]}
            _take_shares(state, sent)

    started = time.process_time()
    quantize([vector], CLIP, TARGET)
    quantise = time.process_time() - started

    gone = {sites - 1}
    active = [nid for nid in range(sites) if nid not in gone]
    request = ConfigRecord({Key.ACTIVE_NODE_ID_LIST: active, Key.DEAD_NODE_ID_LIST: sorted(gone)})
    started = time.process_time()
    answers = {0: mod._unmask(states[0], request)}
    client += time.process_time() - started
    answers |= {nid: mod._unmask(states[nid], request) for nid in active if nid}
    started = time.process_time()
    _unmask(answers, threshold, keys, active, [np.zeros(1, np.int64), np.zeros(parameters, np.int64)])
    unmask = time.process_time() - started
    return {"client_s": client, "quantise_s": quantise, "unmask_s": unmask, "up_bytes": float(up)}


def _keys(state: Any, sites: int, threshold: int) -> tuple[bytes, bytes]:
    answer = mod._setup(
        state,
        ConfigRecord(
            {
                Key.SAMPLE_NUMBER: sites,
                Key.SHARE_NUMBER: sites,
                Key.THRESHOLD: threshold,
                Key.CLIPPING_RANGE: CLIP,
                Key.TARGET_RANGE: TARGET,
                Key.MOD_RANGE: MODULUS,
                Key.MAX_WEIGHT: MAX_WEIGHT,
            }
        ),
    )
    first, second = answer[Key.PUBLIC_KEY_1], answer[Key.PUBLIC_KEY_2]
    assert isinstance(first, bytes)
    assert isinstance(second, bytes)
    return first, second


def _shares(state: Any, keys: Mapping[int, tuple[bytes, bytes]]) -> dict[int, bytes]:
    untyped: Any = {str(nid): list(pair) for nid, pair in sorted(keys.items())}
    answer: Any = mod._share_keys(state, ConfigRecord(untyped))
    return dict(zip(answer[Key.DESTINATION_LIST], answer[Key.CIPHERTEXT_LIST], strict=True))


def _mask(state: Any, inbox: Mapping[int, bytes], vector: np.ndarray[Any, Any]) -> dict[str, Any]:
    untyped: Any = {Key.CIPHERTEXT_LIST: list(inbox.values()), Key.SOURCE_LIST: list(inbox)}
    answer: dict[str, Any] = mod._collect_masked_vectors(
        state, ConfigRecord(untyped), 10, ndarrays_to_parameters([vector])
    )
    return answer


def _take_shares(state: Any, inbox: Mapping[int, bytes]) -> None:
    """Only the shares that a client needs to answer the unmask stage; its own vector is not masked."""
    for source, ciphertext in inbox.items():
        plain = mod.decrypt(state.ss2_dict[source], ciphertext)
        _, _, seed, key = mod.share_keys_plaintext_separate(plain)
        state.rd_seed_share_dict[source], state.sk1_share_dict[source] = seed, key


def _unmask(
    answers: Mapping[int, Any],
    threshold: int,
    keys: Mapping[int, tuple[bytes, bytes]],
    active: list[int],
    total: list[Any],
) -> list[Any]:
    """What the unmask stage of Flower's workflow does, message handling left out."""
    shares: dict[int, list[bytes]] = {nid: [] for nid in keys}
    for answer in answers.values():
        for owner, share in zip(answer[Key.NODE_ID_LIST], answer[Key.SHARE_LIST], strict=True):
            shares[owner].append(share)
    for nid, held in shares.items():
        assert len(held) >= threshold
        secret = combine_shares(held)
        if nid in active:
            total = parameters_subtraction(total, pseudo_rand_gen(secret, MODULUS, get_parameters_shape(total)))
            continue
        for other in active:
            agreed = generate_shared_key(bytes_to_private_key(secret), bytes_to_public_key(keys[other][0]))
            mask = pseudo_rand_gen(agreed, MODULUS, get_parameters_shape(total))
            total = (parameters_addition if nid > other else parameters_subtraction)(total, mask)
    return parameters_mod(total, MODULUS)

"""What secure aggregation costs a site and the coordinator, beside Flower's own SecAgg+ in the same run.

``python -m simulations.benchmarks.secagg [--parameters N ...] [--sites N ...] [--repeats N] [--json]``. One site of the
roster drops out before it sends its vector. CPU seconds of one site over a whole set-up of one sum (keys, shares,
masking, signatures, commitment) and of the coordinator's unmasking; medians over the repeats, with least and most.
Encoding into the ring is not in it: beside it stands what Flower's client takes without its quantising. Every sum is
checked against the plain one. Goals: client 8 times faster, unmask 15 times, 10 MB a site for 5M parameters.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ed25519

from privacy.flower.internals.secagg_plus import flower_costs
from privacy.secagg.context import Cohort, Floors, SumTerms, least_threshold
from privacy.secagg.layout import Packed
from privacy.secagg.masks import RINGS, Ring
from privacy.secagg.replay import MemoryReplay
from privacy.secagg.server import Server
from privacy.secagg.site import MaskingSite
from privacy.secagg.summation import Summation

SEED = 0
CLIENT_GOAL, UNMASK_GOAL = 8.0, 15.0
_CONFIG, _MODEL = b"c" * 32, b"m" * 32


class Meter:
    """CPU seconds, and bytes of the counted messages, for site 0 only."""

    def __init__(self) -> None:
        self.cpu_s, self.up, self.down = 0.0, 0, 0
        self._started = 0.0

    def __enter__(self) -> Meter:
        self._started = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu_s += time.process_time() - self._started

    def count(self, asked: Packed, told: Packed, ring: Ring | None = None) -> None:
        """Count the bytes of a message from the coordinator and of the site's answer."""
        self.down += len(asked.to_bytes())
        self.up += len(told.to_bytes()) + (0 if ring is None else ring.nbytes)


def federation(sites: int, parameters: int, bits: int) -> tuple[Server, list[MaskingSite], list[str]]:
    """Make a coordinator and its sites, with fresh identities."""
    keys = [ed25519.Ed25519PrivateKey.generate() for _ in range(sites)]
    names = tuple(f"site-{i:03d}" for i in range(sites))
    public = tuple(key.public_key().public_bytes_raw() for key in keys)
    cohort = Cohort(consortium="0" * 32, names=names, keys=public)
    threshold = least_threshold(sites, 1)
    terms = SumTerms(
        session=bytes(16),
        nonce=bytes(16),
        round=1,
        steps=1,
        config=_CONFIG,
        roster=cohort.digest,
        threshold=threshold,
        least_survivors=threshold,
        colluders=1,
        ring_bits=bits,
        length=parameters,
    )
    made = [
        MaskingSite(name=name, identity=key, cohort=cohort, floors=Floors(), replay=MemoryReplay())
        for name, key in zip(names, keys, strict=True)
    ]
    return Server(terms, cohort), made, list(names)


def our_costs(parameters: int, sites: int, bits: int) -> dict[str, float]:
    """Measure one set-up and one sum with one site gone; the sum is checked."""
    server, parties, names = federation(sites, parameters, bits)
    meter, unmeasured = Meter(), Meter()
    all_sites = list(zip(parties, names, [meter, *[unmeasured] * (sites - 1)], strict=True))
    _exchange_keys(server, all_sites)
    step, plain = _sum(server, all_sites[:-1], parameters, bits)
    cpu, wall = time.process_time(), time.perf_counter()
    total = step.total()
    unmask_s, wall_s = time.process_time() - cpu, time.perf_counter() - wall
    if not np.array_equal(total, plain):
        raise AssertionError("the secure sum is not the plain sum")
    return {
        "client_s": meter.cpu_s,
        "unmask_s": unmask_s,
        "unmask_wall_s": wall_s,
        "up_bytes": float(meter.up),
        "down_bytes": float(meter.down),
    }


def _exchange_keys(server: Server, sites: Sequence[tuple[MaskingSite, str, Meter]]) -> None:
    for site, name, meter in sites:
        with meter:
            advert = site.begin(server.terms, _CONFIG)
        meter.count(server.terms, advert)
        server.add_advert(name, advert)
    adverts = server.adverts()
    for site, name, meter in sites:
        with meter:
            deal = site.deal(adverts)
        meter.count(adverts, deal)
        server.add_deal(name, deal)


def _sum(
    server: Server, sites: Sequence[tuple[MaskingSite, str, Meter]], parameters: int, bits: int
) -> tuple[Summation, Ring]:
    """One step up to the unmasking, and the plain sum."""
    step = server.open_step(1, _MODEL)
    rng, plain = np.random.default_rng(SEED), np.zeros(parameters, RINGS[bits])
    for site, name, meter in sites:
        vector = rng.integers(0, 2**bits, size=parameters, dtype=RINGS[bits])
        plain += vector
        inbox = server.inbox(name, step)
        with meter:
            site.open_step(inbox, _MODEL)
            message, masked, _ = site.mask(vector)
        meter.count(inbox, message, masked)
        step.add_masked(name, message, masked)
    survivors = step.survivors()
    for site, name, meter in sites:
        with meter:
            confirmation = site.confirm(survivors)
        meter.count(survivors, confirmation)
        step.add_confirmation(name, confirmation)
    confirmations = step.confirmations()
    for site, name, meter in sites:
        with meter:
            reveal = site.reveal(confirmations)
        meter.count(confirmations, reveal)
        step.add_reveal(name, reveal)
    return step, plain


def measure(parameters: int, sites: int, repeats: int, peer: bool) -> dict[str, list[dict[str, float]]]:
    """Measure everything in turn, so that a busy moment of the machine hits all of it alike."""
    costs: dict[str, list[dict[str, float]]] = {"ring-16": [], "ring-32": [], **({"flwr": []} if peer else {})}
    for repeat in range(repeats):
        costs["ring-16"].append(our_costs(parameters, sites, 16))
        costs["ring-32"].append(our_costs(parameters, sites, 32))
        if peer:
            costs["flwr"].append(flower_costs(parameters, sites, least_threshold(sites, 1), SEED + repeat))
    return costs


def rows(parameters: int, sites: int, costs: dict[str, list[dict[str, float]]]) -> list[str]:
    """Lines of the table, one for each way."""
    peer = costs.get("flwr")
    lines = []
    for way, runs in costs.items():
        client, unmask = [run["client_s"] for run in runs], [run["unmask_s"] for run in runs]
        ratios = ["", ""]
        if peer is not None and way != "flwr":
            masking = statistics.median(run["client_s"] - run["quantise_s"] for run in peer)
            ratios = [
                f"{masking / statistics.median(client):.1f}",
                f"{statistics.median(run['unmask_s'] for run in peer) / statistics.median(unmask):.1f}",
            ]
        if way == "flwr":
            quantise = statistics.median(run["quantise_s"] for run in runs)
            way = f"flwr (of it quantising {quantise:.3f})"
        up = statistics.median(run["up_bytes"] for run in runs) / 1e6
        lines.append(
            f"| {parameters / 1e6:g}M | {sites} | {way} | {_spread(client)} | {ratios[0]} | {_spread(unmask)} |"
            f" {ratios[1]} | {up:.2f} |"
        )
    return lines


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=int, nargs="+", default=[5_000_000, 25_000_000])
    parser.add_argument("--sites", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="Measure only our own, not Flower's SecAgg+.")
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object")
    args = parser.parse_args()
    found = {}
    if not args.json:
        print("| parameters | sites | way | client CPU-s | times faster | unmask CPU-s | times faster | MB up a site |")
        print("|---:|---:|---|---:|---:|---:|---:|---:|")
    for parameters in args.parameters:
        for sites in args.sites:
            costs = measure(parameters, sites, args.repeats, not args.alone)
            found[f"{parameters} parameters, {sites} sites"] = costs
            if not args.json:
                print("\n".join(rows(parameters, sites, costs)), flush=True)
    if args.json:
        print(json.dumps(found))
    else:
        print(f"Goals: client {CLIENT_GOAL:g} times faster (without its quantising), unmask {UNMASK_GOAL:g} times.")


if __name__ == "__main__":
    main()

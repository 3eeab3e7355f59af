"""The trade-off network's file: weights in 16 bits, how plans differ, and what it was trained for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_bytes
from shared_model.tradeoff.network import TradeoffNetwork, TradeoffSpec
from shared_model.tradeoff.points import POINTS
from shared_model.tradeoff.prior import ChangePrior

FORMAT = "fedkt3d-tradeoff/1"
_COVARIANCE = "covariance"


@dataclass(frozen=True, kw_only=True)
class Tradeoff:
    """``body_site``: the site of the body it knows. ``shared_sha256``: of the adapter whose doses it was trained on.

    ``spread``: factor on how plans differed in training, since an adapter's errors there are smaller than on others.
    """

    network: TradeoffNetwork
    prior: ChangePrior
    body_site: str
    shared_sha256: str
    spread: float = 1.0

    @property
    def sha256(self) -> str:
        """Of the weights, the covariance and the spread, hex."""
        digest = hashlib.sha256(repr((self.body_site, self.spread)).encode())
        for name, value in sorted({**self.network.state_dict(), _COVARIANCE: self.prior.covariance}.items()):
            digest.update(name.encode() + value.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def with_spread(self, spread: float) -> Tradeoff:
        """The same with another factor."""
        return replace(self, spread=spread)

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        header = {
            "format": FORMAT,
            "spec": json.dumps(asdict(self.network.spec)),
            "points": json.dumps([f"{p.structure} {p.kind}" for p in POINTS]),
            "body_site": self.body_site,
            "shared": self.shared_sha256,
            "spread": repr(self.spread),
        }
        tensors = {name: value.to(torch.float16).contiguous() for name, value in self.network.state_dict().items()}
        write_bytes(path, save({**tensors, _COVARIANCE: self.prior.covariance.contiguous()}, header), mode=ORDINARY)

    @classmethod
    def load(cls, path: Path) -> Tradeoff:
        """Read a file. InputError if it is damaged, holds something else, or names other points."""
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                if header.get("format") != FORMAT:
                    raise InputError(f"{path}: not a trade-off network; expected a file that `simulate tradeoff` wrote")
                if json.loads(header["points"]) != [f"{p.structure} {p.kind}" for p in POINTS]:
                    raise InputError(f"{path}: made by another version of fedkt3d, with other DVH points; make it anew")
                widths = json.loads(header["spec"])
                network = TradeoffNetwork(TradeoffSpec(widths=tuple(widths["widths"]), answer=widths["answer"]))
                names = set(network.state_dict())
                network.load_state_dict({name: file.get_tensor(name).float() for name in names})
                network.eval().requires_grad_(False)
                return cls(
                    network=network,
                    prior=ChangePrior(file.get_tensor(_COVARIANCE)),
                    body_site=header["body_site"],
                    shared_sha256=header["shared"],
                    spread=float(header["spread"]),
                )
        except (OSError, SafetensorError, RuntimeError, KeyError, ValueError, TypeError) as error:
            raise InputError(f"{path}: cannot be read as a trade-off network ({type(error).__name__})") from error

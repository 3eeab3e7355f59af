"""A control at each site against drift: what the site alone would do is replaced by what all sites together did.

SCAFFOLD (Karimireddy et al. 2020, arXiv:1910.06378, option II). Site i keeps its control c_i, the mean direction of its
own last round; c is the mean of all c_i. Each local step is corrected by c_i - c, and afterwards
c_i = c_i - c + (x - y_i) / (the sum of the learning rates), x being the shared vector and y_i the site's own.

In the paper c travels beside x, and the change of c_i beside the update. Here one vector comes and one update goes. A
site finds c itself: as the shared vector moves by the mean update (FedAvg with rate 1), c is the way from the last
vector that the site saw to this one, divided by the same sum of rates. So it works under masks too, and the sites'
weights are those of the mean. With AdamW the direction is that of the steps taken, not of the gradients, and the
correction is added to the step.

Who misses rounds: c is then the mean over the rounds that the site has missed, and c_i is old. An update that the
coordinator did not count leaves c_i ahead of c for a round; c is found anew each time, so the error does not grow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from client.site.config import SiteConfig
from client.training.between_rounds import Arrays, Memory
from privacy.wire.messages import TrainTask
from shared_model.core.vector import Vector
from shared_model.network.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class SiteControl:
    """A site's control in one round: ``own`` c_i and ``common`` c, (d,) each, in units of the learning rate."""

    own: Vector
    common: Vector

    @classmethod
    def at(cls, vector: Vector, number: int, since: int, kept: Arrays) -> SiteControl:
        """Find the controls at the shared vector (d,) of round ``number`` from what was kept after round ``since``."""
        if not kept:
            return cls(own=np.zeros_like(vector), common=np.zeros_like(vector))
        moved = (kept["seen"] - vector) / (float(kept["rates"][0]) * (number - since))
        return cls(own=kept["own"], common=moved.astype(np.float32))

    @property
    def correction(self) -> Vector:
        """What each local step adds to the weights, (d,), once multiplied by the learning rate."""
        return self.own - self.common

    def after(self, vector: Vector, update: Vector, rates: float) -> Arrays:
        """Return what to keep after the site moved from ``vector`` by ``update``, with learning rates of this sum."""
        own = self.own - self.common - update / np.float32(rates)
        return {"own": own.astype(np.float32), "seen": vector, "rates": np.array([rates], np.float32)}


def control_memory(site: SiteConfig, spec: ModelSpec, task: TrainTask) -> Memory:
    """Where the site keeps its control. InputError if it has no folder for derived files."""
    return Memory.of(site, spec, task.seed, "control")

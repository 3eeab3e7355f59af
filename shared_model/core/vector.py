"""The type of the flat vector that travels between sites and coordinator."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# All numbers of a shared adapter, or of an update to one: (d,) float32, laid out by shared_model/adapter/manifest.py.
Vector = NDArray[np.float32]

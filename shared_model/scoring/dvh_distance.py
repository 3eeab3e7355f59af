"""How far two dose-volume histograms (DVHs) are apart, as a loss that trains.

The ends count more, because D99, D95, D1 and D0.1cc are read there. Losses on DVHs are known from Nguyen et al.
(Medical Physics 47(3), 2020, doi:10.1002/mp.13955); arXiv:2603.29670 compares some.
"""

from __future__ import annotations

from torch import Tensor

# The weight of each end, and its share of the voxels: one twentieth.
END_WEIGHT, END_SHARE = 1.0, 20


def dvh_distance(predicted_n: Tensor, measured_n: Tensor) -> Tensor:
    """Area between two DVHs plus END_WEIGHT times the area at each end, () in units of the doses."""
    apart = (predicted_n.sort().values - measured_n.sort().values).abs()
    end = max(1, len(apart) // END_SHARE)
    return apart.mean() + END_WEIGHT * (apart[:end].mean() + apart[-end:].mean())

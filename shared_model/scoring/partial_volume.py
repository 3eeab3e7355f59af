"""Dose-volume metrics of structures that may fill only part of a voxel. Exact, batched and differentiable.

Throughout, ``dose_bn`` is the dose in the n voxels of a structure for b candidates (Gy), and ``cc_n`` the volume of
the structure in each voxel (cm3, above 0). For whole voxels of one size, the dose at a volume equals
``dosimetry.dose_at_volume``, OpenKBP's and numpy's convention.

Gradients: a dose at a volume passes its gradient to the two neighbouring order statistics, a mean passes it to all
voxels. A volume at a dose is a step in each voxel's dose, and an exact step has no gradient. With ``soft_gy`` the step
is a logistic of that width. Its bias on the volume vanishes as the width goes to 0 (0.25 Gy: below a tenth of a voxel
in a dose gradient of 0.5 Gy/mm).
"""

from __future__ import annotations

import torch
from torch import Tensor


def dose_at_percent(dose_bn: Tensor, cc_n: Tensor, percent: float) -> Tensor:
    """D_x%: the least dose in the hottest ``percent`` of the volume, (b,) Gy.

    Voxels are put in ascending order of dose. Each dose is placed at the middle of its voxel's volume, the coldest at 0
    and the hottest at 1, and doses are linear between these places. For equal volumes this is ``numpy.percentile``'s
    default.
    """
    ordered, order = dose_bn.sort(dim=-1)
    volume = cc_n[order]
    ends = volume[:, :1] / 2, volume[:, -1:] / 2
    middle = volume.cumsum(-1) - volume / 2 - ends[0]
    place = middle / (volume.sum(-1, keepdim=True) - ends[0] - ends[1]).clamp_min(torch.finfo(volume.dtype).tiny)
    wanted = torch.full_like(place[:, :1], 1.0 - percent / 100.0)
    last = place.shape[-1] - 1
    high = torch.searchsorted(place.contiguous(), wanted).clamp(0, last)
    low = (high - 1).clamp_min(0)
    below, above = place.gather(-1, low), place.gather(-1, high)
    share = ((wanted - below) / (above - below).clamp_min(torch.finfo(volume.dtype).tiny)).clamp(0.0, 1.0)
    return torch.lerp(ordered.gather(-1, low), ordered.gather(-1, high), share)[:, 0]


def dose_at_cc(dose_bn: Tensor, cc_n: Tensor, cc: float) -> Tensor:
    """D_xcc: the least dose in the hottest ``cc`` cm3, (b,) Gy. A smaller structure counts as a whole.

    On coarse grids this differs from ``dosimetry.dose_at_01cc``, which counts whole voxels as OpenKBP does.
    """
    return dose_at_percent(dose_bn, cc_n, 100.0 * min(1.0, cc / float(cc_n.sum())))


def mean_dose(dose_bn: Tensor, cc_n: Tensor) -> Tensor:
    """Mean dose, (b,) Gy."""
    return (dose_bn * cc_n).sum(-1) / cc_n.sum()


def volume_at_dose(dose_bn: Tensor, cc_n: Tensor, level_gy: float, soft_gy: float = 0.0) -> Tensor:
    """Volume that receives at least ``level_gy``, (b,) cm3."""
    if soft_gy > 0.0:
        return (torch.sigmoid((dose_bn - level_gy) / soft_gy) * cc_n).sum(-1)
    return ((dose_bn >= level_gy).to(dose_bn.dtype) * cc_n).sum(-1)


def conformity(target_cc: Tensor, target_in_isodose_cc: Tensor, isodose_cc: Tensor) -> Tensor:
    """Paddick's conformity, (b,): 0 (no overlap) to 1 (isodose and target are one).

    Paddick 2000, doi:10.3171/jns.2000.93.supplement_3.0219.
    """
    return target_in_isodose_cc.square() / (target_cc * isodose_cc).clamp_min(1e-9)


def homogeneity(dose_bn: Tensor, cc_n: Tensor) -> Tensor:
    """ICRU report 83: (D2% - D98%) / D50%, (b,); 0 is uniform."""
    near_max, near_min, median = (dose_at_percent(dose_bn, cc_n, percent) for percent in (2.0, 98.0, 50.0))
    return (near_max - near_min) / median.clamp_min(1e-6)

"""A site's noised counts of its training patients, from which an adapter's ranges are read (privacy/dp)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from client.data.load import or_none
from client.site.config import SiteConfig
from privacy.dp.encoding import Ring
from privacy.dp.noise import NoiseStream
from privacy.dp.release import clipped_sum, release
from privacy.wire.messages import StatisticsTask
from shared_model.adapter.count_layout import LAYOUT, SIZE
from shared_model.adapter.envelope_counts import case_counts
from shared_model.core.fields import MessageError
from shared_model.core.vector import Vector


def counts_release(site: SiteConfig, task: StatisticsTask) -> Ring:
    """Count the site's training patients, add its share of the noise: (SIZE,) ring numbers, one release.

    A patient whose files cannot be read counts as zero, which only the site's log says: a refusal would tell that the
    patient is there. Raises MessageError ("bad_task") for counts of another layout than this installation's.
    """
    terms = task.terms
    if terms is None or (task.size, task.layout) != (SIZE, LAYOUT):
        raise MessageError("bad_task", "statistics: the coordinator counts other things than this installation")
    patients, stream = site.patients(), NoiseStream()
    total = clipped_sum(len(patients), SIZE, lambda i: _counts(site, patients[i]), terms, stream)
    return release(total, terms, stream)


def _counts(site: SiteConfig, indices: Sequence[int]) -> Vector:
    """What one patient counts: the mean over their cases, (SIZE,)."""
    cases = (or_none(site, site.train[index], case_counts) for index in indices)
    rows = [counts for counts in cases if counts is not None]
    return np.mean(rows, axis=0, dtype=np.float32) if rows else np.zeros(SIZE, np.float32)

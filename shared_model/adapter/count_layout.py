"""What a patient's counts are: fixed, public bins for each measure of an Envelope, and each organ.

A patient counts once for each measure, in the bin of their value, once by the number of their organs, and a little for
each organ. So the Euclidean norm of their counts is at most NORM whoever they are, and noise of a known size hides them
(privacy/dp). No torch here: coordinators plan with it.
"""

from __future__ import annotations

import hashlib
import json
import math

from shared_model.patient.anatomy import ORGANS

BINS = 24
# Lowest and highest edge of each measure's bins, in its unit; the bins are equally wide in the logarithm. What lies
# beyond an edge counts in the last bin on that side.
EDGES = {
    "prescription_gy": (5.0, 100.0),
    "targets_cc": (1.0, 10_000.0),
    "body_cc": (100.0, 100_000.0),
    "length_mm": (30.0, 2_000.0),
    "slice_mm": (0.5, 20.0),
    "pixel_mm": (0.3, 20.0),
}
# All organs together add at most 2 to the squared norm: each counts so much.
ORGAN_WEIGHT = math.sqrt(2.0 / len(ORGANS))
# One for each measure, one for the number of organs, and the organs.
NORM = math.sqrt(len(EDGES) + 1 + 2.0)
SIZE = BINS * len(EDGES) + len(ORGANS) + 1 + len(ORGANS)
# Of the public layout. Coordinator and site must agree on what each number counts.
LAYOUT = hashlib.sha256(json.dumps([BINS, EDGES, list(ORGANS)]).encode()).hexdigest()

"""A scorecard of three criteria: two that the small patients have, and one that nobody has."""

CARD = """\
schema: rt-scorecard/2
name: small
version: "1.0"
description: of tests
metrics:
  - {id: d95, structure: PTV_High, metric: D95%, unit: "%Rx", direction: higher, weight: 2, limit: 99,
    points: [[90, 0], [95, 1.5], [100, 2]], constraint: {at_least: 90}, source: ours}
  - {id: larynx, structure: Larynx, metric: Mean, unit: Gy, direction: lower, weight: 1, points: [[10, 1], [30, 0]]}
  - {id: cord, structure: SpinalCord, metric: Max, unit: Gy, direction: lower, weight: 1, points: [[0, 1], [70, 0]]}
"""

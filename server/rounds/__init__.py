"""A run seen from inside: train, sum, step, judge."""

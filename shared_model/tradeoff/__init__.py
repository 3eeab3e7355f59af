"""Doses that differ as plans differ: a predicted dose moved by a small network to other points of its histograms."""

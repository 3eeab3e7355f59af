"""Frozen weights, found by hash."""

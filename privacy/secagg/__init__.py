"""Secure aggregation: the coordinator learns only the sum of the sites' vectors (docs/secagg.md)."""

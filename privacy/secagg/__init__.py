"""Secure aggregation: the coordinator learns the sum of the sites' vectors, nothing else (docs/secagg.md)."""

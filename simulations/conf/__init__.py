"""Hydra configurations of the `simulate` commands."""

"""Hydra settings of the commands."""

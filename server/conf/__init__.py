"""Hydra configurations of `server run`, typed by server/config/run.py."""

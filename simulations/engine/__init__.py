"""Runs the same server and client apps on one machine."""

"""Dose estimated from physics features."""

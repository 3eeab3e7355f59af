"""The base: a dose estimated from physics features."""

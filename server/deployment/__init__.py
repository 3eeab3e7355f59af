"""The SuperLink and the executor, kept alive."""

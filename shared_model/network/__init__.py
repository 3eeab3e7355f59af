"""The transformer and its specification."""

"""Who takes part in the federation."""

"""How the coordinator makes one step out of the sites' updates: a rule that joins them, then an optimiser."""

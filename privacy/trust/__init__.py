"""Keys, certificates and the roster."""

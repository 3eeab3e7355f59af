"""Keys, certificates, signed documents and the roster."""

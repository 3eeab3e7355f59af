"""From a site's files to Cases; only this room knows the kinds of data."""

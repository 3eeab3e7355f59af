"""From a site's files to Cases; the one place that knows kinds of data."""

"""One command each: the studies that a researcher runs."""

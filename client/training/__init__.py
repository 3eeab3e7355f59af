"""One vector in, one update out."""

"""Errors, files, fields and commands; imports neither torch nor Flower."""

"""Errors, files, fields, commands and the type of a vector. This room imports neither torch nor Flower."""

"""Errors, files, fields, commands and the type of a vector; imports neither torch nor Flower."""

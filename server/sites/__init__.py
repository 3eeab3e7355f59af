"""Asking the sites, over Flower."""

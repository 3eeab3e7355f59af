"""Test, adopt and align adapters; the private adapter never leaves the site."""

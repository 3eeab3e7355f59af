"""Noise, terms, accountant and ledger."""

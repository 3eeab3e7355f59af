"""Latents, objective and sampler."""

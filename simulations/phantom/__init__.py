"""Synthetic hospitals: anatomy, beams and a physically plausible dose."""

"""From a Case to a dose in Gy."""

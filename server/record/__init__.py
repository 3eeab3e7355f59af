"""The files that survive a crash."""

"""Pages and pictures for the physicist."""

"""What a person at a hospital types."""

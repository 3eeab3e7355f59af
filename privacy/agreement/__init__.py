"""What the sites sign up to."""

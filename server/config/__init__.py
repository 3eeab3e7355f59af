"""What a run asks for."""

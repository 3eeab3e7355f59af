"""What travels and what stays: the vector, its card and its envelope."""

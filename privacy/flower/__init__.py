"""Flower's programs, shut in: nothing else in privacy imports this room."""

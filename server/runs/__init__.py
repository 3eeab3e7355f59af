"""A run seen from outside: submit, follow, show, publish."""

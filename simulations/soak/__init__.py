"""A deployed federation in real processes that is put through faults for many rounds (`make soak`)."""

"""The two processes that stay alive at a hospital: SuperNode and executor."""

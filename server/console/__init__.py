"""The coordinator's web page: what happens, and the few acts that a coordinator types else. It never touches a run."""

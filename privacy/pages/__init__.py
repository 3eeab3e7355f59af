"""Web pages on a machine of one's own, the coordinator's and the hospital's: who may open them, how they look."""

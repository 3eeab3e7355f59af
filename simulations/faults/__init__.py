"""The fault lab: what a federation does when sites, connections or its coordinator fail, and what sites refuse."""

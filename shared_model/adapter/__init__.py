"""The shared adapter and its vector, which travel, their card and envelope; and the private adapter, which stays."""

"""The one message schema."""

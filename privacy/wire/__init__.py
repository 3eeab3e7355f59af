"""The one message schema between coordinator and sites."""

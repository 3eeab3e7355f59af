"""Tests: they mirror the packages; `builders` makes what several of them need."""

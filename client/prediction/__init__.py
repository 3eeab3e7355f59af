"""One patient in, a dose and a report out."""

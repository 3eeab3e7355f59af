"""DVH metrics and scorecards."""

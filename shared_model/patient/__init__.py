"""Grid, structure names, Case and beam plates."""

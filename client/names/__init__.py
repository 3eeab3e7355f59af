"""From a hospital's structure names to the names that the model knows."""

"""Ask the sites over Flower."""

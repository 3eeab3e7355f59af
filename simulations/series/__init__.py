"""Series of `simulate run`: many trainings that differ in one thing each, and the statistics of what came of them."""

"""Training of the U-shaped network: views of patients, one step, and a run that can stop at any moment."""

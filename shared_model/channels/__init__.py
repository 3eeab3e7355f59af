"""What the U-shaped network sees of a Case: volumes per modality on the case's own grid, cropped to the body."""

"""The model and the physics of dose. Knows torch; knows nothing of Flower, sites or servers.

Axes are (z, y, x) in LPS everywhere: z grows to superior, y to posterior, x to the patient's left. Lengths in mm, dose
in Gy.

Shape suffixes of tensors: b batch, m modality slot, c channel (latent or image), z y x space, n tokens of one slot,
l all tokens, d model width, h attention heads, s structures, k candidates. ``dose_bzyx`` is a batch of dose volumes.
"""

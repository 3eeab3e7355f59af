"""Who this hospital is: its folder, site.yaml, policy and salt."""

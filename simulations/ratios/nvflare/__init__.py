"""Scripts that NVFlare's own environment runs; nothing here is imported."""

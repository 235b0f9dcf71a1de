"""Tools for LoRA files: merge, extract, resize, look into and compare them."""

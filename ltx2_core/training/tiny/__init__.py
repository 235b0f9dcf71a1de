"""Training of the tiny models that ltx2_core contains: configuration, networks, sizes, numbers of steps."""

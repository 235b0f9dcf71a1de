"""The sampler's starting state: token layout, positions, denoise masks and conditioning items."""

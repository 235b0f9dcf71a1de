"""What the sampler starts from: tokens, positions, masks and conditioning items."""

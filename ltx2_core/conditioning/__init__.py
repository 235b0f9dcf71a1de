"""The latent state that sampling starts from: token layout, positions, denoise masks, conditioning items."""

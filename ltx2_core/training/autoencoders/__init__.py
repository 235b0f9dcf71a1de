"""Training of the autoencoders, the vocoder and the latent upsampler of the tiny set."""

"""Training of the video and audio autoencoders, the vocoder and the latent upsampler of the tiny set."""

"""Nodes for a clip as a whole: plan, latents, prompt, memory and decoding."""

"""Nodes for a clip as a whole: its plan, latents, prompt, memory and decoding."""

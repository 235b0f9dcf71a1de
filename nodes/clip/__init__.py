"""Nodes of a clip as a whole: its plan, its latents, its prompt, its memory and its decoding."""

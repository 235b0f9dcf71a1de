"""Nodes that condition a clip: images, guides, audio, control maps and masks in time."""

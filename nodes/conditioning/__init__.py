"""Nodes for conditioning a clip: images, guides, audio, control maps and time masks."""

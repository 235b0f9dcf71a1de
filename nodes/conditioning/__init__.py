"""Nodes that condition a clip on images, guides, audio, control videos and time masks."""

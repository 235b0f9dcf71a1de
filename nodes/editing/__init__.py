"""Nodes that extend and retake clips, add audio, and sample long clips window by window."""

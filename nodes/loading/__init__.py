"""Nodes that load checkpoints, text encoders, upscalers and LoRAs."""

"""Runs a request: plans its stages, loads the networks that they need, samples, and returns a generation."""

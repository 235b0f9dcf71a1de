"""Safetensors files: headers, tensors, quantised layers; also digests of files, and private folders."""

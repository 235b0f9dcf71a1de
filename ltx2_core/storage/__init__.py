"""Reading of safetensors files: headers, tensors, and quantised layers with their decoding."""

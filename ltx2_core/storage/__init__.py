"""What lies in safetensors files: headers, tensors, and quantised layers with their decoding."""

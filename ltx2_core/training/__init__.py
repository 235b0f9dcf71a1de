"""Training: loop, flow matching and LoRA; its packages train the embedded tiny set on a synthetic world."""

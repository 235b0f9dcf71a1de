"""Training: loop, flow matching and LoRA; its packages train the tiny models that ltx2_core contains."""

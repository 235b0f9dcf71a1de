"""Everything that depends on how ComfyUI works inside; the nodes call plain functions from here."""

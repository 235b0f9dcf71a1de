"""Everything that depends on the internals of ComfyUI ("the host"); nodes call plain functions from here."""

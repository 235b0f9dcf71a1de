"""Every ComfyUI quirk in one place; the nodes call plain functions from here."""

"""The diffusion video decoder of LTX-2.5: exact in pieces of any length, and in tiles of the frame."""

"""The one home of the latent grid: pixels, frames, seconds and samples to latents and back."""

from __future__ import annotations

TEMPORAL_SCALE = 8
SPATIAL_SCALE = 32
VIDEO_CHANNELS = 128
AUDIO_CHANNELS = 8
AUDIO_BINS = 16
AUDIO_SAMPLE_RATE = 16000
AUDIO_HOP_LENGTH = 160
AUDIO_DOWNSAMPLE = 4
AUDIO_LATENTS_PER_SECOND = 25

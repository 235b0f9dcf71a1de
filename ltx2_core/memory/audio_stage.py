"""Memory for decoding the audio, which grows with the length of the clip: it is decoded in one piece."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from ..audio import AudioDecoder, build_vocoder
from ..config import AudioVAEConfig, VocoderConfig
from .trace import Trace

_TRACED = (25, 50)
"""Lengths in audio latents of the two traces from which the line is extrapolated."""


@dataclass(frozen=True, kw_only=True)
class AudioSize:
    """Configurations of the two networks that turn an audio latent into a waveform: decoder and vocoder.

    Both compute in float32, whatever the dtype of a run.
    """

    decoder: AudioVAEConfig
    vocoder: VocoderConfig


def audio_bytes(size: AudioSize, latents: int) -> tuple[int, int]:
    """Bytes of (weights, activations) for decoding ``latents`` audio latent frames.

    The activations are traced on the meta device at two lengths and extrapolated as a line, because every
    layer is local in time; they are within 10 % of what the memory tracer ``Trace`` counts.
    """
    weights, (short, long) = _traced(size)
    # Two lengths determine the line, since every layer is local in time.
    slope = (long - short) / (_TRACED[1] - _TRACED[0])
    return weights, int(short + slope * (latents - _TRACED[0]))


@lru_cache(maxsize=8)
def _traced(size: AudioSize) -> tuple[int, tuple[int, int]]:
    # Both networks always compute in float32, whatever the dtype of the run.
    decoder = AudioDecoder(size.decoder, dtype=torch.float32, device="meta")
    vocoder = build_vocoder(size.vocoder, dtype=torch.float32, device="meta")
    peaks = []
    for latents in _TRACED:
        shape = (1, size.decoder.z_channels, latents, size.decoder.latent_bins)
        with torch.no_grad(), Trace() as trace:
            vocoder(decoder(torch.empty(shape, device="meta")))
        peaks.append(trace.peak)
    tensors = (t for network in (decoder, vocoder) for t in network.state_dict().values())
    return sum(t.numel() * t.element_size() for t in tensors), (peaks[0], peaks[1])

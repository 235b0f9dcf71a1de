"""What decoding the sound needs in memory: it grows with the clip, since all of it is decoded at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from ..audio import AudioDecoder, build_vocoder
from ..config import AudioVAEConfig, VocoderConfig
from .trace import Trace

_TRACED = (25, 50)
"""Audio latents of the two traces through which the line is drawn."""


@dataclass(frozen=True, kw_only=True)
class AudioSize:
    """The networks that make a waveform of an audio latent, both in float32."""

    decoder: AudioVAEConfig
    vocoder: VocoderConfig


def audio_bytes(size: AudioSize, latents: int) -> tuple[int, int]:
    """(weights, activations) of decoding ``latents`` audio latents, within 10 % of ``Trace``.

    Traced on the meta device at two lengths: every layer is local in time, so the rest is a line.
    """
    weights, (short, long) = _traced(size)
    slope = (long - short) / (_TRACED[1] - _TRACED[0])
    return weights, int(short + slope * (latents - _TRACED[0]))


@lru_cache(maxsize=8)
def _traced(size: AudioSize) -> tuple[int, tuple[int, int]]:
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

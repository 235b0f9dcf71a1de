"""The audio of a long clip in chunks: decoded from latents, or read from an input.

Letters: T audio latents, C channels, S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ..media import read_audio
from ..run.request import AudioSource
from ..shapes import AUDIO_LATENTS_PER_SECOND, ClipPlan
from ..storage.identity import identity, tensor_identity

AUDIO_CHUNK, AUDIO_CONTEXT = 50, 25
"""Audio latents decoded at a time, and how many more on each side are decoded with them as context.

The memory of the vocoder follows their sum.
"""
AUDIO_CHUNK_S = 30
"""Seconds of input audio that are read at a time."""


def decoded_audio(
    decode: Callable[[Tensor], Tensor], pieces: Iterator[Tensor], clip: ClipPlan, rate: int
) -> Iterator[Tensor]:
    """Waveform chunks (C, S) of audio latent ``pieces`` (1, 8, t, 16), in all as long as the clip's frames.

    ``decode`` maps a latent to (C, S) at ``rate`` Hz. Each chunk is decoded with its neighbours as context.
    """
    per_latent, total = rate // AUDIO_LATENTS_PER_SECOND, round(clip.seconds * rate)
    buffer, first = torch.zeros(1, 8, 0, 16), 0
    for start in range(0, clip.audio_latents, AUDIO_CHUNK):
        stop = min(start + AUDIO_CHUNK, clip.audio_latents)
        context_stop = min(stop + AUDIO_CONTEXT, clip.audio_latents)
        while first + buffer.shape[2] < context_stop:
            buffer = torch.cat((buffer, next(pieces)), dim=2)
        begin = max(0, start - AUDIO_CONTEXT)
        # Latents before the context are dropped, so that memory does not grow with the length.
        buffer, first = buffer[:, :, begin - first :], begin
        waveform = decode(buffer[:, :, : context_stop - begin])
        # The last latent may end before or after the last frame; the audio ends with the frames.
        end = total if stop == clip.audio_latents else min(total, stop * per_latent)
        chunk = waveform[:, (start - begin) * per_latent : end - begin * per_latent]
        yield functional.pad(chunk, (0, end - start * per_latent - chunk.shape[1]))


def read_input_audio(audio: AudioSource, start_s: float, clip: ClipPlan) -> Iterator[Tensor]:
    """Input audio from ``start_s`` on in chunks (C, S), not resampled; silence follows if it ends early."""
    rate = audio_rate(audio)
    total, first, channels = round(clip.seconds * rate), round(start_s * rate), 0
    for begin in range(0, total, AUDIO_CHUNK_S * rate):
        count = min(AUDIO_CHUNK_S * rate, total - begin)
        part = _audio_part(audio, first + begin, count, rate)
        # A file that has ended returns no channels, and all chunks of a stream must have the same number.
        channels = channels or len(part)
        if not part.shape[1]:
            part = torch.zeros(channels, 0)
        yield functional.pad(part, (0, count - part.shape[1]))


def _audio_part(audio: AudioSource, first: int, count: int, rate: int) -> Tensor:
    """Samples ``first`` to ``first + count - 1`` as (C, S); S is 0 after the end of the audio."""
    if isinstance(audio, tuple):
        return audio[0][:, first : first + count]
    try:
        return read_audio(audio, start_s=first / rate, duration_s=count / rate)[0][:, :count]
    except ValueError:
        # ``read_audio`` raises for a start after the end, which here means silence.
        return torch.zeros(0, 0)


def audio_rate(audio: AudioSource) -> int:
    """The sample rate in Hz."""
    return audio[1] if isinstance(audio, tuple) else read_audio(audio, duration_s=0.1)[1]


def audio_identity(audio: AudioSource | None) -> list[str | int] | None:
    """JSON values by which audio is recognised: a digest of the file, or of the samples with the rate."""
    if audio is None:
        return None
    if isinstance(audio, tuple):
        return [tensor_identity(audio[0]), audio[1]]
    return [identity([Path(audio)])]

"""The sound of a long clip, chunk by chunk: decoded from its latents, or a given one as it is.

Letters: T audio latents, C channels, S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..media import read_audio
from ..run.request import AudioSource
from ..shapes import AUDIO_LATENTS_PER_SECOND, ClipPlan

AUDIO_CHUNK, AUDIO_CONTEXT = 50, 25
"""Audio latents that are decoded at a time, and how many around them the decoder hears besides; the vocoder's
memory follows their number."""
AUDIO_CHUNK_S = 30
"""Seconds of a given sound that are read at a time."""


def decoded_audio(
    decode: Callable[[Tensor], Tensor], pieces: Iterator[Tensor], clip: ClipPlan, rate: int
) -> Iterator[Tensor]:
    """Waveform chunks (C, S) of audio latent ``pieces`` (1, 8, t, 16), as long as the clip's pictures.

    ``decode`` makes (C, S) at ``rate`` Hz of a latent. Each chunk is decoded with its neighbours around it.
    """
    per_latent, total = rate // AUDIO_LATENTS_PER_SECOND, round(clip.seconds * rate)
    held, first = torch.zeros(1, 8, 0, 16), 0
    for start in range(0, clip.audio_latents, AUDIO_CHUNK):
        stop = min(start + AUDIO_CHUNK, clip.audio_latents)
        heard = min(stop + AUDIO_CONTEXT, clip.audio_latents)
        while first + held.shape[2] < heard:
            held = torch.cat((held, next(pieces)), dim=2)
        begin = max(0, start - AUDIO_CONTEXT)
        held, first = held[:, :, begin - first :], begin
        waveform = decode(held[:, :, : heard - begin])
        end = total if stop == clip.audio_latents else min(total, stop * per_latent)
        chunk = waveform[:, (start - begin) * per_latent : end - begin * per_latent]
        yield functional.pad(chunk, (0, end - start * per_latent - chunk.shape[1]))


def read_input_audio(audio: AudioSource, start_s: float, clip: ClipPlan) -> Iterator[Tensor]:
    """The sound from ``start_s`` on in chunks (C, S), as it is; silence follows if it ends early."""
    rate = audio_rate(audio)
    total, first, channels = round(clip.seconds * rate), round(start_s * rate), 0
    for begin in range(0, total, AUDIO_CHUNK_S * rate):
        count = min(AUDIO_CHUNK_S * rate, total - begin)
        part = _audio_part(audio, first + begin, count, rate)
        channels = channels or len(part)
        if not part.shape[1]:
            part = torch.zeros(channels, 0)
        yield functional.pad(part, (0, count - part.shape[1]))


def _audio_part(audio: AudioSource, first: int, count: int, rate: int) -> Tensor:
    """(C, S) of the sound; nothing past its end."""
    if isinstance(audio, tuple):
        return audio[0][:, first : first + count]
    try:
        return read_audio(audio, start_s=first / rate, duration_s=count / rate)[0][:, :count]
    except ValueError:
        return torch.zeros(0, 0)


def audio_rate(audio: AudioSource) -> int:
    """In Hz."""
    return audio[1] if isinstance(audio, tuple) else read_audio(audio, duration_s=0.1)[1]


def audio_identity(audio: AudioSource | None) -> Any:
    """JSON values that differ for another sound."""
    if audio is None:
        return None
    if isinstance(audio, tuple):
        return [*audio[0].shape, float(audio[0].double().sum()), audio[1]]
    return [Path(audio).name, Path(audio).stat().st_size]

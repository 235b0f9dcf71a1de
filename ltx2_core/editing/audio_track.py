"""Yields the audio of a long clip in chunks, decoded from latents or read from an input.

Letters: T audio latents, C channels, S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..media.audio_in import AudioReader
from ..run.request import AudioSource
from ..shapes import AUDIO_LATENTS_PER_SECOND, ClipPlan
from ..storage.identity import identity, tensor_identity
from .protocols import Waveform

AUDIO_CHUNK, AUDIO_CONTEXT = 50, 25
"""Audio latents decoded at a time, and how many more on each side are decoded with them as context.

The memory of the vocoder follows their sum.
"""
AUDIO_CHUNK_S = 30
"""Seconds of input audio that are read at a time."""


def decoded_audio(
    decode: Callable[[Tensor], Tensor], pieces: Iterator[Tensor], clip: ClipPlan, rate: int
) -> Iterator[Tensor]:
    """Decode consecutive ``pieces`` (1, 8, t, 16) of an audio latent to chunks of a waveform (C, S).

    ``decode`` converts a latent (1, 8, t, 16) to a waveform (C, S) at ``rate`` Hz. Each chunk is decoded
    together with the latents around it, so that there are no seams. All chunks together are as long as the
    frames of ``clip``.
    """
    # Whole at the rates of all vocoders, 24 and 48 kHz.
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


class AudioParts(NamedTuple):
    """Input audio at ``rate`` Hz that is read in parts.

    ``read(first, count)`` returns ``count`` samples (C, count) from sample number ``first`` on, fewer at the
    end of the audio.
    """

    rate: int
    read: Callable[[int, int], Tensor]

    def seconds(self, start_s: float, seconds: float) -> Waveform:
        """Read ``seconds`` of audio from second ``start_s`` on: (waveform (C, S), rate in Hz).

        The result is shorter if the audio ends within that time. If the audio ends before ``start_s``, the
        result is ``seconds`` of silence.
        """
        part = self.read(round(start_s * self.rate), round(seconds * self.rate))
        return (part if part.shape[1] else part.new_zeros(len(part), round(seconds * self.rate))), self.rate


@contextmanager
def opened(audio: AudioSource) -> Iterator[AudioParts]:
    """A context that opens input audio, a file or a waveform, and yields :class:`AudioParts` that read it.

    A file is decoded only once if the parts are read in rising order within one such context.
    """
    if isinstance(audio, tuple):
        waveform, rate = audio
        yield AudioParts(rate, lambda first, count: waveform[:, first : first + count])
        return
    with AudioReader(audio) as reader:
        yield AudioParts(reader.rate, reader.part)


def read_input_audio(audio: AudioSource, start_s: float, clip: ClipPlan) -> Iterator[Tensor]:
    """Yield input audio from second ``start_s`` on in chunks (C, S) at its own rate.

    All chunks together are as long as the frames of ``clip``; if the audio ends early, silence follows.
    """
    with opened(audio) as parts:
        total, first = round(clip.seconds * parts.rate), round(start_s * parts.rate)
        for begin in range(0, total, AUDIO_CHUNK_S * parts.rate):
            count = min(AUDIO_CHUNK_S * parts.rate, total - begin)
            part = parts.read(first + begin, count)
            yield functional.pad(part, (0, count - part.shape[1]))


def audio_rate(audio: AudioSource) -> int:
    """The sample rate of input audio in Hz."""
    with opened(audio) as parts:
        return parts.rate


def audio_identity(audio: AudioSource | None) -> list[str | int] | None:
    """JSON values that identify input audio: a digest of the file, or a digest of the samples with the rate.

    None if there is no audio.
    """
    if audio is None:
        return None
    if isinstance(audio, tuple):
        return [tensor_identity(audio[0]), audio[1]]
    return [identity([Path(audio)])]

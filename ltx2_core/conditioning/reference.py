"""Reference audio, such as a voice to imitate: clean tokens that are not part of the result.

Letters: B batch, T audio latents of the clip, R audio latents of the reference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..shapes import AUDIO_DOWNSAMPLE, AUDIO_HOP_LENGTH, AUDIO_SAMPLE_RATE
from ..types import LatentState
from .patchify import audio_positions


@dataclass(frozen=True, kw_only=True)
class ReferenceAudio:
    """Conditions the generated audio on an encoded reference: ``latent`` (1 or B, 8, R, 16), normalised.

    Its tokens come before those of the clip, as in ComfyUI, or with ``follows`` after them, as in the
    official pipeline for dubs; its times lie before the clip in both cases.
    """

    latent: Tensor
    follows: bool = False

    def apply(self, state: LatentState) -> LatentState:
        """Return a copy of ``state`` with this audio as its reference audio.

        Raises ValueError for a state without audio, or a reference with other channels, bins or batch size.
        """
        audio = state.latent.audio
        if audio is None:
            raise ValueError("there is reference audio but this state has no audio: plan the clip with audio")
        shape = self.latent.shape
        # Channels and bins must be those of the clip, the number of latents may differ.
        if self.latent.ndim != 4 or shape[1::2] != audio.shape[1::2] or shape[0] not in (1, len(audio)):
            raise ValueError(
                f"a reference of shape {tuple(shape)} does not fit an audio latent {tuple(audio.shape)}: "
                "only its length may differ"
            )
        return replace(state, reference_audio=self.latent.to(audio), reference_follows=self.follows)


@dataclass(frozen=True, kw_only=True)
class OwnAudio:
    """Preserves the audio of a state and makes it the reference audio too, for the second stage of a dub.

    The tokens of the reference come after those of the clip.
    """

    def apply(self, state: LatentState) -> LatentState:
        """Return a copy of ``state`` whose audio has mask 0 and is also its reference audio.

        Raises ValueError for a state without audio.
        """
        audio = state.latent.audio
        if audio is None:
            raise ValueError(
                "there is no audio in this state that could be preserved: plan the clip with audio"
            )
        mask = audio.new_zeros((len(audio), 1, audio.shape[2], 1), dtype=torch.float32)
        state = replace(state, mask=replace(state.mask, audio=mask))
        return ReferenceAudio(latent=audio, follows=True).apply(state)


def reference_audio_positions(length: int) -> Tensor:
    """Positions (1, 1, ``length``, 2) of reference audio: start and end (exclusive) in negative seconds.

    The reference, ``length`` audio latent frames, ends one latent frame (40 ms) before the clip, which begins
    at 0. ComfyUI's ``LTXVReferenceAudio`` uses the same positions.
    """
    # With negative times the positions of the clip are the same with and without a reference.
    times = audio_positions(length)
    step = AUDIO_DOWNSAMPLE * AUDIO_HOP_LENGTH / AUDIO_SAMPLE_RATE
    return times - (float(times[0, 0, -1, 1]) + step)


def beside_reference(reference: Tensor, own: Tensor, *, axis: int, follows: bool) -> Tensor:
    """Join a tensor of the reference audio and one of the clip's audio along ``axis``, that of their tokens.

    ``reference`` and ``own`` are both tokens, masks or positions. The reference comes first, or with
    ``follows`` last.
    """
    return torch.cat((own, reference) if follows else (reference, own), dim=axis)

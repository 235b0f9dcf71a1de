"""Reference audio, such as a voice to imitate: clean tokens before the clip that are not part of the result.

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
    """Conditions the generated audio on an encoded reference: ``latent`` (1 or B, 8, R, 16), normalised."""

    latent: Tensor

    def apply(self, state: LatentState) -> LatentState:
        """Return the state with this reference audio.

        Raises ValueError for a state without audio, or a reference of another shape.
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
        return replace(state, reference_audio=self.latent.to(audio))


def reference_audio_positions(length: int) -> Tensor:
    """Positions (1, 1, R, 2) of reference audio, in negative seconds: it ends one latent before the clip.

    As in ComfyUI's ``LTXVReferenceAudio``.
    """
    # With negative times the positions of the clip are the same with and without a reference.
    times = audio_positions(length)
    step = AUDIO_DOWNSAMPLE * AUDIO_HOP_LENGTH / AUDIO_SAMPLE_RATE
    return times - (float(times[0, 0, -1, 1]) + step)


def with_reference_positions(reference: Tensor, positions: Tensor) -> Tensor:
    """Positions (1, 1, R + T, 2) of a reference (1 or B, 8, R, 16) followed by ``positions`` (1, 1, T, 2)."""
    return torch.cat((reference_audio_positions(reference.shape[2]).to(positions), positions), dim=2)

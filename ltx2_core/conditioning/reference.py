"""Reference audio, such as a voice to imitate: clean tokens before the clip that are not part of the result.

Letters: B batch, T audio latent frames of the clip, R audio latent frames of the reference.
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
    """Makes the generated audio imitate an encoded reference, such as a voice.

    ``latent`` (1 or B, 8, R, 16), with R audio latent frames of any number, is normalised.
    """

    latent: Tensor

    def apply(self, state: LatentState) -> LatentState:
        """Return a copy of ``state`` with this reference audio.

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
        return replace(state, reference_audio=self.latent.to(audio))


def reference_audio_positions(length: int) -> Tensor:
    """Positions (1, 1, ``length``, 2) of reference audio: start and end (exclusive) in negative seconds.

    The reference, ``length`` audio latent frames, ends one latent frame before the clip begins at 0. So it is
    in ComfyUI's ``LTXVReferenceAudio``.
    """
    # With negative times the positions of the clip are the same with and without a reference.
    times = audio_positions(length)
    step = AUDIO_DOWNSAMPLE * AUDIO_HOP_LENGTH / AUDIO_SAMPLE_RATE
    return times - (float(times[0, 0, -1, 1]) + step)


def with_reference_positions(reference: Tensor, positions: Tensor) -> Tensor:
    """Positions (1, 1, R + T, 2) of a reference audio latent (1 or B, 8, R, 16) followed by the clip's audio.

    ``positions`` (1, 1, T, 2) are those of the clip: start and end (exclusive) in seconds.
    """
    return torch.cat((reference_audio_positions(reference.shape[2]).to(positions), positions), dim=2)

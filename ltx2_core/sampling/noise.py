"""Noise drawn in the same order as ComfyUI does, and the state that a sampler starts from.

Letters: B batch, F latent frames, H W latent rows and columns, T audio latent frames.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ..conditioning.masks import blend
from ..conditioning.patchify import unpatchify_audio, unpatchify_video
from ..shapes import ClipPlan
from ..types import AVLatent, LatentState, Numerics


def make_noise(
    shapes: ClipPlan | AVLatent,
    seed: int | torch.Generator,
    *,
    batch: int = 1,
    device: torch.device | str = "cpu",
    by_token: bool = False,
) -> AVLatent:
    """Unit Gaussian noise, float32: one draw for the whole video, then one for the audio, from one generator.

    ``shapes`` is a plan (with ``batch`` samples) or a latent to match. Latent frames of guides (images or
    clips that condition the video), which follow those of the video, are drawn with it, before the audio, and
    so change the noise of the audio. A ``seed`` that is a number is drawn on ``device``; only the noise of
    the CPU is the same on every machine. A generator continues its sequence, on its own device.

    With ``by_token`` all channels of a token are drawn after each other, and not all cells of a channel: the
    order of the official pipelines, which draw noise for tokens. ``shapes`` must then be a latent.
    """
    generator = seed
    if not isinstance(generator, torch.Generator):
        # A generator of its own, so that the global random state of the host is neither read nor changed.
        generator = torch.Generator(device).manual_seed(seed)  # type: ignore[arg-type]
    if by_token:
        assert isinstance(shapes, AVLatent)
        return shapes.map(lambda x: _randn_tokens(x, generator))
    # The generator of the CPU fills blocks of 16 numbers: noise drawn frame by frame, or audio first, differs
    # from that of ComfyUI and diffusers for the same seed.
    if isinstance(shapes, ClipPlan):
        return AVLatent(
            _randn(shapes.video_shape(batch), generator), _randn(shapes.audio_shape(batch), generator)
        )
    return AVLatent(
        None if shapes.video is None else _randn(tuple(shapes.video.shape), generator),
        None if shapes.audio is None else _randn(tuple(shapes.audio.shape), generator),
    )


def initial_state(
    state: LatentState, noise: AVLatent, sigma: float, numerics: Numerics = Numerics.OFFICIAL
) -> AVLatent:
    """What a sampler starts from at noise level ``sigma``: ``sigma * noise + (1 - sigma) * latent``, float32.

    With ``OFFICIAL`` sigma is multiplied by the mask, so that nothing is mixed in where the mask is 0.
    ``COMFY`` mixes everywhere: its denoiser replaces preserved content with the clean latent before the model
    gets it.
    """
    # The clean latent may be bfloat16, in which the mixture would be rounded at every step.
    latent = state.latent.map(lambda x: x.float())
    # For a second stage sigma is the first of its schedule (0.909375 or 0.85), and the latent is the upscaled
    # one.
    noised = latent.zip(noise, lambda x, n: torch.lerp(x, n.to(x.device), sigma))
    if numerics.is_comfy:
        return noised
    # Blending the mixture by the mask equals mixing at mask * sigma, which is the timestep of each token.
    return blend(latent, noised, state.mask)


def check_noise(noise: AVLatent, clip: ClipPlan, *, video: bool, audio: bool = True) -> None:
    """Raise ValueError unless ``noise`` has the shapes of the latents of ``clip``.

    With ``video`` False it must be noise of the audio alone, with ``audio`` False of the video alone.
    """
    shapes = {
        "video": clip.video_shape() if video else None,
        "audio": clip.audio_shape() if audio else None,
    }
    for name, shape in shapes.items():
        own = getattr(noise, name)
        if (None if own is None else tuple(own.shape)) != shape:
            raise ValueError(
                f"noise of the {name} is {'absent' if own is None else tuple(own.shape)}, and the first "
                f"stage takes {shape}"
            )


def with_own_noise(drawn: AVLatent, own: AVLatent) -> AVLatent:
    """Replace the ``drawn`` noise of a clip by the noise ``own`` that the user gave.

    Where the clip has guides (images or clips that condition the video), ``drawn`` has their latent frames
    behind those of the video; for these the drawn noise stays.
    """

    def replaced(new: Tensor, old: Tensor) -> Tensor:
        return torch.cat((new.to(old), old[:, :, new.shape[2] :]), dim=2)

    return own.zip(drawn, replaced)


def _randn_tokens(like: Tensor, generator: torch.Generator) -> Tensor:
    """Noise of the shape of a video or audio latent, drawn token by token."""
    if like.ndim == 5:
        batch, channels, *grid = like.shape
        return unpatchify_video(_randn((batch, prod(grid), channels), generator), *grid)
    batch, channels, length, bins = like.shape
    return unpatchify_audio(_randn((batch, length, channels * bins), generator), bins)


def _randn(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    # Drawn in float32 whatever the model's dtype: another dtype gives other numbers for the same seed.
    return torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32)

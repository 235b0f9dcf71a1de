"""Converts the latents of a call to the tokens of each stream, and velocities of tokens back to latents.

Letters: B batch, C channels, F latent frames, H W latent rows and columns, T audio latent frames, N tokens, S
text tokens.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...ltx2_core.conditioning.patchify import (
    audio_positions,
    patchify_audio,
    patchify_video,
    unpatchify_audio,
    unpatchify_video,
    video_positions,
)
from ...ltx2_core.conditioning.reference import beside_reference, reference_audio_positions
from ...ltx2_core.transformer import Modality
from ...ltx2_core.transformer.timesteps import Groups
from .guides import GuideTokens
from .known_clip import KnownClip, groups_of
from .values import ReferenceAudio


def video_modality(
    latent: Tensor,
    timestep: Tensor,
    fps: float,
    context: Tensor,
    guides: GuideTokens | None,
    known: KnownClip,
) -> Modality:
    """Convert a video latent (B, C, F, H, W) to tokens with positions and noise levels.

    ``timestep`` has the noise levels, (B,) or one for each token; ``context`` is the text (B, tokens, width).
    ``guides`` are the last tokens and have coordinates of their own; None without guides. ``known`` is the
    clip from step to step.
    """
    _, _, frames, height, width = latent.shape
    tokens = patchify_video(latent)
    # Pixel frames first, seconds afterwards: the host multiplies by the reciprocal of the frame rate, and the
    # top rotary frequency makes that ulp visible.
    positions = video_positions(frames, height, width, fps=1.0)
    mask, groups = None, groups_of(timestep)
    if guides is not None:
        present = guides.present(latent.device)
        # Repeated for the batch, since the coordinates that ComfyUI attaches to a guide have a batch axis.
        tokens, positions = tokens[:, present], positions[:, :, guides.keep].repeat(len(latent), 1, 1, 1)
        # The host puts guide tokens at the end; their positions are those of the guide, not of the grid.
        if guides.count:
            times = len(latent) // len(guides.coordinates)
            positions[:, :, -guides.count :] = guides.coordinates.to(positions).repeat(times, 1, 1, 1)
        if timestep.ndim > 1:
            timestep = timestep[:, present]
            groups = None if groups is None else _of_tokens(groups, guides, known)
        mask = guides.attention
    positions[:, 0] = positions[:, 0] * (1.0 / fps)
    timesteps = _token_timesteps(timestep)
    return Modality(
        tokens=tokens,
        timesteps=timesteps,
        # Preserved tokens have lower timesteps, so the largest one is the noise level of the stream.
        sigma=timesteps.amax(dim=1),
        groups=groups,
        positions=positions,
        context=context,
        attention_mask=mask,
    )


def _of_tokens(groups: Groups, guides: GuideTokens, known: KnownClip) -> Groups:
    """The groups of those tokens that ``guides`` do not lack."""
    own = known.made(("of tokens", id(groups.index)), lambda: groups.of(guides.present(torch.device("cpu"))))
    return replace(own, timesteps=groups.timesteps)


def audio_modality(
    latent: Tensor,
    timestep: Tensor,
    context: Tensor,
    reference: ReferenceAudio | None,
    known: KnownClip,
) -> Modality:
    """Convert an audio latent (B, C, T, bins) to tokens with positions and noise levels.

    ``timestep`` has the noise levels, (B,) or one for each token; ``context`` is the text (B, tokens, width).
    The clean tokens of a ``reference`` audio come first, or last if it says so; None without one. ``known``
    is the clip from step to step.
    """
    groups = groups_of(timestep)
    tokens, timesteps = patchify_audio(latent), _token_timesteps(timestep)
    positions = audio_positions(tokens.shape[1])
    if reference is not None:
        reference_tokens = reference["tokens"].to(tokens)
        length, follows = reference_tokens.shape[1], reference.get("follows", False)
        positions = beside_reference(reference_audio_positions(length), positions, axis=2, follows=follows)
        # The reference is clean, which a timestep of 0 states.
        groups = (
            known.beside(timestep, tokens.shape[1], length, follows=follows) if timestep.ndim == 1 else None
        )
        clean, own = timesteps.new_zeros(len(latent), length), timesteps.expand(-1, tokens.shape[1])
        timesteps = beside_reference(clean, own, axis=1, follows=follows)
        reference_tokens = reference_tokens.expand(len(latent), -1, -1)
        tokens = beside_reference(reference_tokens, tokens, axis=1, follows=follows)
    return Modality(
        tokens=tokens,
        timesteps=timesteps,
        sigma=timesteps.amax(dim=1),
        groups=groups,
        positions=positions,
        context=context,
    )


def _token_timesteps(timestep: Tensor) -> Tensor:
    """Reshape timesteps (B,), (B, tokens) or (B, tokens, 1) to (B, 1) or (B, tokens)."""
    return timestep.reshape(len(timestep), -1)


def velocities_of(
    streams: tuple[Tensor | None, Tensor | None],
    video: Tensor,
    audio: Tensor | None,
    guides: GuideTokens | None,
    *,
    follows: bool = False,
) -> list[Tensor] | Tensor:
    """Convert the velocities of tokens, ``streams`` = (video, audio), to velocities of latents.

    The results have the shapes of the latents ``video`` and ``audio``. Returns [video, audio], or the video's
    alone if ``audio`` is None or empty. Cells for which ``guides`` on a coarser grid have no token get
    velocity 0. The tokens of a reference audio precede those of the clip's audio, or with ``follows`` come
    after them; they are no part of the latent.
    """
    tokens, audio_tokens = streams
    assert tokens is not None
    if guides is not None:
        # A velocity of 0 leaves the cells of a guide's holes as they are at every step.
        whole = tokens.new_zeros(len(video), len(guides.keep), tokens.shape[-1])
        whole[:, guides.present(tokens.device)] = tokens
        tokens = whole
    velocity = unpatchify_video(tokens, *video.shape[2:])
    if audio is None or not audio.numel():
        return velocity
    assert audio_tokens is not None
    length = audio.shape[2]
    own = audio_tokens[:, :length] if follows else audio_tokens[:, -length:]
    return [velocity, unpatchify_audio(own)]

"""Prepares a training step, noisy tokens and velocity targets, and runs the transformer on it.

Letters: B batch, N tokens, C token channels, R tokens of references.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from einops import repeat
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...conditioning.patchify import audio_positions, patchify_audio, patchify_video, video_positions
from ...transformer import Modality, Transformer
from ...transformer.model import RunBlock
from .clips import Clips, Factors, Reference, reference_factors
from .conditions import Condition
from .draws import Draws
from .objective import Objective, StreamObjective


@dataclass(frozen=True, kw_only=True)
class NoisyStream:
    """One stream of a training step.

    ``modality`` is the input of the transformer: R reference tokens, then the N target tokens. ``sigma`` (B,)
    is the noise level. ``target`` (B, N, C) are the velocities to learn and ``in_loss`` (B, N) says which of
    them count; both are None for a stream that is not generated.
    """

    modality: Modality
    sigma: Tensor
    target: Tensor | None = None
    in_loss: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """A prepared training step; a stream that takes no part is None."""

    video: NoisyStream | None
    audio: NoisyStream | None


def prepare(objective: Objective, clips: Clips, draws: Draws) -> Step:
    """Draw noise and conditions for a batch of clips.

    The order of the draws is that of the official trainer: for video, then for audio, the noise level, the
    noise, conditions on the clip's tokens, references. Raises ValueError if ``clips`` lack a stream, a mask
    or a reference that ``objective`` needs.
    """
    video, audio = objective.video, objective.audio
    early = None
    if objective.legacy and video is not None and clips.video is not None:
        batch, _, *grid = clips.video.shape
        # A single frame would be known whole, so that nothing would be left to learn.
        early = torch.zeros(batch, grid[1] * grid[2], dtype=torch.bool)
        if grid[0] > 1:
            early = _known(video, tuple(grid), clips.video_mask, batch, draws)
    first = None if video is None else _video(objective, video, clips, draws, early)
    shared = first.sigma if first is not None and objective.shared_sigma else None
    if shared is not None and (video is None or not video.generated):
        shared = None
    second = None
    if audio is not None:
        second = _audio(objective, audio, clips, draws, shared)
    return Step(video=first, audio=second)


def velocities(
    transformer: Transformer,
    step: Step,
    *,
    checkpointing: bool = False,
    run_block: RunBlock | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Predict the velocities (B, R + N, C) of both streams; None for an absent one.

    With ``checkpointing`` the activations of a block are not held but computed again in the backward pass.
    ``run_block`` runs the blocks in another way, such as a :class:`~..block_memory.BlockRunner`.
    """
    video, audio = (None if s is None else s.modality for s in (step.video, step.audio))
    inputs = transformer.condition(video, audio)
    run: Any = run_block or (_checkpointed if checkpointing else None)
    hidden = transformer.run_blocks(transformer.embed(video, audio), inputs, run_block=run)
    return transformer.head(hidden, inputs)


def _checkpointed(_number: int, block: Any, hidden: Any, inputs: Any, switches: Any) -> Any:
    return checkpoint(block, *hidden, *inputs, switches, use_reentrant=False)


def _video(
    objective: Objective, stream: StreamObjective, clips: Clips, draws: Draws, early: Tensor | None
) -> NoisyStream:
    latent = clips.video
    if latent is None:
        raise ValueError("a clip without frames cannot train the video")
    grid = latent.shape[2:]
    own = _noisy(
        objective,
        stream,
        patchify_video(latent),
        draws,
        known=partial(_known, stream, grid, clips.video_mask, latent.shape[0], draws),
        early=early,
    )
    positions = video_positions(grid[0], grid[1], grid[2], clips.fps)
    chosen = _chosen(stream, len(clips.references), draws, objective.legacy)
    # Each reference goes in front of all before it.
    for index in chosen:
        reference = clips.references[index]
        fps = clips.fps if objective.legacy else reference.fps
        factors = Factors(1, 1) if objective.legacy else reference_factors(latent, reference.latent)
        own.put_in_front(patchify_video(reference.latent))
        positions = torch.cat((_reference_positions(reference, fps, factors, positions, grid), positions), 2)
    marks = None if objective.official else own.marks(grid[1] * grid[2])
    return own.finished(positions, clips.context.video, marks)


def _audio(
    objective: Objective, stream: StreamObjective, clips: Clips, draws: Draws, shared: Tensor | None
) -> NoisyStream:
    latent = clips.audio
    if latent is None:
        raise ValueError("a clip without audio cannot train the audio")
    length = latent.shape[2]
    own = _noisy(
        objective,
        stream,
        patchify_audio(latent),
        draws,
        known=partial(_known, stream, (length,), clips.audio_mask, latent.shape[0], draws),
        sigma=shared,
    )
    positions = audio_positions(length)
    for index in _chosen(stream, len(clips.audio_references), draws, objective.legacy):
        reference = clips.audio_references[index]
        own.put_in_front(patchify_audio(reference))
        positions = torch.cat((audio_positions(reference.shape[2]), positions), dim=2)
    return own.finished(positions, clips.context.audio, None)


class _Tokens:
    """Tokens of a stream while a step is prepared; references are put in front of them.

    ``noisy`` (B, N, C) are the tokens with their noise and ``timesteps`` (B, N) the level of each. ``sigma``
    (B,) is the level of each sample, ``target`` (B, N, C) the velocities to learn, or None for a stream that
    is not generated.
    """

    def __init__(self, noisy: Tensor, timesteps: Tensor, sigma: Tensor, target: Tensor | None) -> None:
        self.tokens, self.timesteps, self.sigma, self.target = noisy, timesteps, sigma, target
        self.in_loss: Tensor | None = None
        self.before = 0

    def put_in_front(self, reference: Tensor) -> None:
        """Put clean tokens (B, R, C) in front; their timestep is 0."""
        self.tokens = torch.cat((reference.to(self.tokens.dtype), self.tokens), dim=1)
        zeros = self.timesteps.new_zeros(reference.shape[:2])
        self.timesteps = torch.cat((zeros, self.timesteps), dim=1)
        self.before += reference.shape[1]

    def marks(self, cells: int) -> Tensor:
        """1 on the tokens of the clip's first latent frame, which has ``cells`` tokens: (B, N, 1)."""
        marks = self.tokens.new_zeros(*self.tokens.shape[:2], 1)
        marks[:, self.before : self.before + cells] = 1
        return marks

    def finished(self, positions: Tensor, context: Tensor, marks: Tensor | None) -> NoisyStream:
        modality = Modality(
            tokens=self.tokens.float(),
            timesteps=self.timesteps,
            sigma=self.sigma,
            positions=positions,
            context=context,
            keyframes=marks,
        )
        return NoisyStream(modality=modality, sigma=self.sigma, target=self.target, in_loss=self.in_loss)


def _noisy(
    objective: Objective,
    stream: StreamObjective,
    clean: Tensor,
    draws: Draws,
    *,
    known: Callable[[], Tensor],
    early: Tensor | None = None,
    sigma: Tensor | None = None,
) -> _Tokens:
    """Add noise to the tokens ``clean`` (B, N, C) of a stream.

    ``known`` draws which tokens are known, unless ``early`` (B, N) was drawn before. ``sigma`` (B,) is the
    noise level; None draws it.
    """
    batch, count, _ = clean.shape
    if not stream.generated:
        zeros = torch.zeros(batch, device=clean.device)
        return _Tokens(clean, zeros[:, None].expand(batch, count), zeros, None)
    if sigma is None:
        sigma = objective.sigmas.draw(batch, count, draws)
    if not objective.official:
        clean = clean.float()
    noise = draws.normal(*clean.shape, dtype=clean.dtype)
    level = sigma[:, None, None]
    mixed = (1 - level) * clean + level * noise
    target = noise - clean
    at = (known() if early is None else early).to(clean.device)
    tokens = _Tokens(
        torch.where(at[..., None], clean.to(mixed.dtype), mixed),
        torch.where(at, 0.0, repeat(sigma, "b -> b n", n=count)),
        sigma,
        target,
    )
    tokens.in_loss = ~at
    return tokens


def _known(
    stream: StreamObjective, grid: tuple[int, ...], mask: Tensor | None, batch: int, draws: Draws
) -> Tensor:
    """Draw which target tokens are known: (B, N) bool."""
    known = torch.zeros(1, 1, dtype=torch.bool)
    for condition in stream.intrinsic:
        # One number also for a probability of 1, as in the official trainer.
        chosen = (draws.uniform(batch) < condition.probability).cpu()
        known = known | (chosen[:, None] & condition.known(tuple(grid), mask).cpu())
    count = 1
    for side in grid:
        count *= side
    return known.expand(batch, count)


def _chosen(stream: StreamObjective, available: int, draws: Draws, always: bool) -> list[int]:
    """Draw which references take part, by their numbers, for the whole batch.

    ``always`` draws nothing and takes them all. Raises ValueError if there are fewer than conditions.
    """
    conditions: tuple[Condition, ...] = stream.references
    if len(conditions) > available:
        raise ValueError(
            f"the objective has {len(conditions)} references and the clips have {available}: add them to the "
            "dataset (column reference_video or reference_audio)"
        )
    if always:
        return list(range(len(conditions)))
    return [n for n, c in enumerate(conditions) if float(draws.uniform()) < c.probability]


def _reference_positions(
    reference: Reference, fps: float, factors: Factors, target: Tensor, grid: tuple[int, ...]
) -> Tensor:
    """Positions (1, 3, R, 2) of a reference in the space and time of the clip.

    ``target`` are the positions of the clip's tokens, behind those of references before, ``grid`` its latent
    frames, rows and columns.
    """
    frames, rows, columns = reference.latent.shape[2:]
    positions = video_positions(frames, rows, columns, fps)
    if factors.time != 1:
        count = grid[0] * grid[1] * grid[2]
        # The first reference frame stands for the first frame of the clip alone, so later ones move back.
        first_end = target[0, 0, -count, 1]
        positions[:, 0] = (positions[:, 0] - (factors.time - 1) * first_end).clamp(min=0)
    positions[:, 1:] *= factors.space
    return positions

"""How many frames each block of the diffusion video decoder gets and computes at a time, by counting alone.

It follows ``video_vae.streaming.run_stages`` and the stages of ``video_vae.diffusion``, and must change
together with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from math import prod
from typing import NamedTuple

from ..config import DiffusionDecoderConfig
from ..video_vae.diffusion.reach import LATENTS_AT_ONCE, frames_of, ghosts

_ENOUGH_LATENTS = 48
"""Latent frames after which all pieces have occurred that a longer clip has."""


class Piece(NamedTuple):
    """Frames that pass a stage at a time: ``taken`` of its input, ``made`` of its result.

    ``last`` says that the clip ends with them.
    """

    taken: int
    made: int
    last: bool


@lru_cache(maxsize=256)
def block_pieces(
    config: DiffusionDecoderConfig, latent_frames: int, at_once: int, *, tiles: bool
) -> tuple[tuple[Piece, ...], ...]:
    """The pieces of every block of the diffusion stage, for the first denoising step.

    The clip has ``latent_frames`` latent frames and is decoded ``at_once`` pixel frames at a time, whole or
    in ``tiles``.
    """
    latents = min(latent_frames, _ENOUGH_LATENTS)
    scale = config.strides[0]
    # A latent comes without its last frame, then that one with its copies.
    before = [Piece(0, latents - 1, False)] if latents > 1 else []
    pieces = iter([*before, Piece(0, 1 + ghosts(config), True)])
    stages = config.stages
    for number, stage in enumerate(stages):
        limit = max(1, at_once // scale)
        for _ in range(stage.depth):
            pieces = _block(pieces, limit, stage.kernel[0])
        if number == len(stages) - 1:
            break
        if tiles and number == len(stages) - 2:
            done = prod(one.strides[0] for one in stages[:number])
            pieces = _chunks(pieces, LATENTS_AT_ONCE * done)
        pieces = _upsampled(pieces, limit, stage.strides[0])
        scale //= stage.strides[0]
    frames = frames_of(config, latents)
    last_stride = stages[-1].strides[0]
    pieces = _cut(pieces, (frames - 1) // last_stride + 1)
    pieces = _upsampled(pieces, max(1, at_once // last_stride), last_stride)
    blocks = []
    for _ in range(config.depth):
        done_pieces = tuple(_block(pieces, at_once, config.kernel[0]))
        blocks.append(done_pieces)
        pieces = iter(done_pieces)
    return tuple(blocks)


def _through(
    pieces: Iterable[Piece], limit: int, lag: int, result: Callable[[int, bool], int]
) -> Iterator[Piece]:
    """The pieces of a stage that takes at most ``limit`` frames at a time and is ``lag`` frames behind.

    ``result`` gives the frames that it makes of some frames, which end the clip or do not.
    """
    for piece in pieces:
        left = piece.made
        while left:
            taken = min(left, limit)
            if piece.last and taken == left and lag:
                taken = min(left, max(1, limit - lag))
            left -= taken
            last = piece.last and not left
            yield Piece(taken, result(taken, last), last)


def _block(pieces: Iterable[Piece], limit: int, window: int) -> Iterator[Piece]:
    """The pieces of an attention block with windows of ``window`` frames; see :func:`_through`."""
    arrived = made = 0

    def result(taken: int, last: bool) -> int:
        nonlocal arrived, made
        arrived += taken
        ready = arrived if last else arrived - window // 2 if arrived >= window else 0
        before, made = made, ready
        return ready - before

    return _through(pieces, limit, window // 2, result)


def _upsampled(pieces: Iterable[Piece], limit: int, stride: int) -> Iterator[Piece]:
    """The pieces of an upsampler that makes ``stride`` frames of each one, but one of the clip's first."""
    dropped = stride - 1

    def result(taken: int, last: bool) -> int:  # noqa: ARG001 the length of a result does not depend on it
        nonlocal dropped
        made, dropped = stride * taken - dropped, 0
        return made

    return _through(pieces, limit, 0, result)


def _chunks(pieces: Iterable[Piece], frames: int) -> Iterator[Piece]:
    """Join pieces and cut them to ``frames`` frames each, as tiles get them."""
    total = sum(piece.made for piece in pieces)
    for first in range(0, total, frames):
        made = min(frames, total - first)
        yield Piece(made, made, first + made == total)


def _cut(pieces: Iterable[Piece], frames: int) -> Iterator[Piece]:
    """Leave out what lies behind the first ``frames`` frames."""
    for piece in pieces:
        made = min(piece.made, frames)
        frames -= made
        if made:
            yield Piece(piece.taken, made, frames == 0)

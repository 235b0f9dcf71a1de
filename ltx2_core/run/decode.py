"""Decodes a video latent to frames within the available memory: in chunks, in tiles, as float or uint8.

Letters: N frames, H W pixel rows and columns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from einops import rearrange
from torch import Tensor

from ..clock import Clock
from ..media import to_bytes
from ..memory import DecodeChoice
from ..out_of_memory import attempt
from ..video_vae import AnyVideoDecoder
from .leaving import LeavingFrames

logger = logging.getLogger(__name__)


def decode_chunks(
    decoder: AnyVideoDecoder,
    latents: Tensor | Iterable[Tensor],
    choice: DecodeChoice | None,
    *,
    as_bytes: bool,
    check: Callable[[], None],
    clock: Clock | None = None,
) -> Iterator[Tensor]:
    """Decode the latent of one clip to successive chunks of frames (frames, 3, height, width) on the CPU.

    Frames are float32 in [-1, 1], or uint8 with ``as_bytes``. ``latents`` (1, C, F, H, W) are the consecutive
    pieces of the latent, on the device of the decoder. ``choice`` says in what chunks and tiles to decode;
    None decodes without tiles. ``check`` is called before each chunk and may raise to stop. ``clock`` counts
    the seconds of decoding.
    """
    if choice is None:
        chunks = decoder.decode_stream(latents)
    elif choice.tiles is None:
        chunks = decoder.decode_stream(latents, max_piece_bytes=choice.piece_bytes)
    else:
        # Faded tiles are the last resort, and a user who sees a seam needs to learn where it comes from.
        if not choice.exact:
            logger.warning("the decoder's state does not fit: %s", choice.line())
        convert = _to_bytes if as_bytes else None
        chunks = decoder.decode_tiles(
            latents, choice.tiles, max_piece_bytes=choice.piece_bytes, convert=convert
        )
    clock = clock or Clock()
    leaving = LeavingFrames()
    done = 0
    arriving: Callable[[], Tensor] | None = None
    while True:
        check()
        # Entered for each chunk: a generator that yields within it would leave the mode on for its caller.
        with clock.timed("decode"), torch.inference_mode():
            # A chunk that fails cannot be asked for again; within it the decoder has tried smaller pieces.
            chunk = attempt("decoding the video", lambda: next(chunks, None), again=False)
            before, arriving = arriving, None
            frames = None
            # Frames in float32 are too large to hold those of two chunks on the device.
            if chunk is not None and chunk.is_cuda and as_bytes:
                arriving = attempt("decoding the video", partial(leaving.begin, _frames(chunk), first=done))
                done += chunk.shape[2]
            elif chunk is not None:
                frames = attempt("decoding the video", partial(_on_cpu, chunk, as_bytes=as_bytes, first=done))
                done += len(frames)
            # The last chunk arrives while this one is computed.
            earlier = None if before is None else before()
        ended = chunk is None
        # No name may hold this chunk while the next one is decoded.
        del chunk, before
        for one in (earlier, frames):
            if one is not None and len(one):
                yield one
        # Nor frames that the caller has freed.
        one = earlier = frames = None
        if ended:
            return


def _on_cpu(chunk: Tensor, *, as_bytes: bool, first: int) -> Tensor:
    """Bring a decoded chunk (1, 3, frames, height, width) to (frames, 3, height, width) on the CPU.

    The result is float32 in [-1, 1], or uint8 with ``as_bytes``; ``first`` is the number of its first frame
    in the clip.
    """
    frames = _frames(chunk)
    return (to_bytes(frames, first=first) if as_bytes else frames.float()).cpu()


def _frames(chunk: Tensor) -> Tensor:
    return rearrange(chunk, "1 c n h w -> n c h w")


def _to_bytes(frames: Tensor) -> Tensor:
    """Convert frames (1, 3, N, H, W) in [-1, 1] to uint8."""
    return rearrange(to_bytes(rearrange(frames, "1 c n h w -> n c h w")), "n c h w -> 1 c n h w")

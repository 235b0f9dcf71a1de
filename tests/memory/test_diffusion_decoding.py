"""What the plan says of the diffusion decoder, against what a decode of the released widths takes."""

from __future__ import annotations

from collections import Counter
from functools import partial
from math import prod

import pytest
import torch

from ltx2_core.config import video_vae_config
from ltx2_core.memory import Trace, choose_decode
from ltx2_core.memory.diffusion_decoding import diffusion_memory, tile_piece_bytes
from ltx2_core.memory.diffusion_pieces import block_pieces
from ltx2_core.shapes import plan_clip
from ltx2_core.video_vae import DiffusionVideoDecoder, SpaceTiles, field_of_view
from ltx2_core.video_vae.diffusion import attention
from ltx2_core.video_vae.diffusion.blocks import DiffusionBlock
from ltx2_core.video_vae.diffusion.kernels import by_na3d, few_keys

RELEASED = video_vae_config({"vae": {"_class_name": "CausalDiffusionVAE"}})
HALO = field_of_view(RELEASED)


def fused(q, k, v, *sizes):
    """Stands for a fused kernel, which allocates its result and nothing else."""
    return torch.empty_like(q)


def by_kitchen(q, k, v, axes, boxes):
    return partial(by_na3d, fused) if few_keys(prod(q.shape[1:4]), prod(k.shape[1:4]), boxes) else None


CHOSEN = {"tiles": lambda *case: None, "triton": lambda *case: fused, "na3d": by_kitchen}
"""By what computes attention, what ``kernel_for`` answers on a machine that has it."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cells", "tiles", "at_once", "means"),
    [
        ((7, 8), None, 16, "tiles"),
        ((7, 8), None, 8, "tiles"),
        ((7, 8), None, 4, "tiles"),
        ((7, 16), SpaceTiles(columns=2, halo=HALO), 16, "tiles"),
        ((7, 16), SpaceTiles(columns=2, halo=HALO), 8, "tiles"),
        ((16, 24), None, 8, "tiles"),
        *[
            (cells, tiles, at_once, means)
            for means in ("triton", "na3d")
            for cells, tiles, at_once in [
                ((7, 8), None, 16),
                ((7, 16), SpaceTiles(columns=2, halo=HALO), 8),
                ((12, 16), None, 16),
            ]
        ],
    ],
)
def test_a_decode_needs_what_is_said_of_it(monkeypatch, cells, tiles, at_once, means):
    # Kernels are chosen on CUDA; a trace runs on meta.
    monkeypatch.setattr(attention, "kernel_for", CHOSEN[means])
    decoder = DiffusionVideoDecoder(RELEASED, dtype=torch.bfloat16, device="meta").eval()
    latent = torch.empty(1, 128, 14, *cells, dtype=torch.bfloat16, device="meta")
    limit = tile_piece_bytes(RELEASED, cells, tiles, 2, at_once)
    with torch.inference_mode(), Trace() as trace:
        if tiles is None:
            pieces = decoder.decode_stream(latent, max_piece_bytes=limit)
        else:
            pieces = decoder.decode_tiles(latent, tiles, max_piece_bytes=limit)
        for piece in pieces:
            del piece
    said = diffusion_memory(
        RELEASED, latent_frames=14, cells=cells, tiles=tiles, itemsize=2, at_once=at_once, means=means
    )
    assert 0.9 * trace.peak <= said.peak <= 1.1 * trace.peak


NARROW = video_vae_config(
    {
        "vae": {
            "_class_name": "CausalDiffusionVAE",
            "decoder": {
                "in_channels": 16,
                "head_dim": 16,
                "stage_channels": [256, 128, 64, 64, 64],
                "stage_depths": [2, 1, 2, 1, 3],
                "stage_kernels": [[3, 3, 5], [3, 5, 3], [3, 3, 3], [3, 5, 3]],
                "stage5_kernel": [5, 3, 7],
                "upsamples": [[[1, 2, 2], 2], [[2, 1, 1], 2], [[2, 2, 2], 1], [[2, 2, 2], 1]],
                "t_emb_dim": 24,
            },
        }
    }
)


@pytest.mark.parametrize("tiles", [None, SpaceTiles(columns=2, halo=field_of_view(NARROW))])
@pytest.mark.parametrize(("frames", "at_once"), [(3, 16), (9, 16), (9, 8), (5, 4), (4, 2)])
def test_blocks_compute_the_pieces_that_are_counted(monkeypatch, tiles, frames, at_once):
    cells, computed = (3, 10), Counter()
    decoder = DiffusionVideoDecoder(NARROW, device="meta").eval()
    latent = torch.empty(1, 16, frames, *cells, device="meta")
    limit = tile_piece_bytes(NARROW, cells, tiles, 4, at_once)
    number = {block: at for at, block in enumerate(decoder.decoder.diff_blocks)}
    compute = DiffusionBlock.compute

    def counted(block, x, place, *rest):
        computed[number[block], x.shape[1], place.out[0].size] += 1
        return compute(block, x, place, *rest)

    monkeypatch.setattr(DiffusionBlock, "compute", counted)
    # In a trace frames that leave the device stay meta tensors.
    with torch.inference_mode(), Trace():
        if tiles is None:
            list(decoder.decode_stream(latent, max_piece_bytes=limit))
        else:
            list(decoder.decode_tiles(latent, tiles, max_piece_bytes=limit))
    counts = Counter(
        (block, piece.taken, piece.made)
        for block, pieces in enumerate(block_pieces(NARROW.diffusion, frames, at_once, tiles=bool(tiles)))
        for piece in pieces
        if piece.made
    )
    assert computed == Counter({piece: n * (1 if tiles is None else 2) for piece, n in counts.items()})


@pytest.mark.parametrize(
    ("width", "height", "room", "tiles"),
    [
        (768, 512, 2.0e9, None),
        (1920, 1088, 6.0e9, (2, 1)),
        (1920, 1088, 12e9, None),
        (1280, 704, 3e9, (2, 1)),
    ],
)
def test_tiles_are_chosen_only_where_whole_frames_do_not_fit(width, height, room, tiles):
    long, short = (plan_clip(width, height, frames=frames) for frames in (1441, 121))
    for clip in (long, short):
        choice = choose_decode(int(room), vae=RELEASED, clip=clip, dtype=torch.bfloat16)
        assert choice.memory.peak <= room
        assert choice.exact
        assert tiles == (choice.tiles and (choice.tiles.columns, choice.tiles.rows))

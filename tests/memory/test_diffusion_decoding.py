"""What the plan says of the diffusion decoder, against what a decode of the released widths takes."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.config import video_vae_config
from ltx2_core.memory import Trace, choose_decode
from ltx2_core.memory.diffusion_decoding import diffusion_memory, tile_piece_bytes
from ltx2_core.shapes import plan_clip
from ltx2_core.video_vae import DiffusionVideoDecoder, SpaceTiles, field_of_view

RELEASED = video_vae_config({"vae": {"_class_name": "CausalDiffusionVAE"}})
HALO = field_of_view(RELEASED)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cells", "tiles", "at_once", "above"),
    [
        ((7, 8), None, 8, 1.1),
        ((7, 8), None, 4, 1.1),
        # In small tiles fewer windows are computed in one call than the estimate takes.
        ((7, 16), SpaceTiles(columns=2, halo=HALO), 8, 1.2),
    ],
)
def test_a_decode_needs_what_is_said_of_it(cells, tiles, at_once, above):
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
    said = diffusion_memory(RELEASED, latent_frames=14, cells=cells, tiles=tiles, itemsize=2, at_once=at_once)
    assert 0.9 * trace.peak <= said.peak <= above * trace.peak


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

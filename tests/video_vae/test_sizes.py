"""Sizes: what comes out for what goes in, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ltx2_core.video_vae import Tile, Tiling, VideoVAE, tiled_decode, tiled_encode
from ltx2_core.video_vae.convolution import patchify, unpatchify

Vaes = dict[str, VideoVAE]


@pytest.mark.parametrize("name", ["2.0", "2.3"])
@pytest.mark.parametrize("latent_frames", [1, 2, 4])
def test_the_first_latent_is_one_frame_and_each_later_one_eight(
    vaes: Vaes, name: str, latent_frames: int
) -> None:
    frames = vaes[name].decode(torch.randn(2, 3, latent_frames, 2, 3, dtype=torch.float64))
    assert frames.shape == (2, 3, 8 * latent_frames - 7, 64, 96)
    assert vaes[name].encode(frames).shape == (2, 3, latent_frames, 2, 3)


@pytest.mark.parametrize(("frames", "advice"), [(8, "try 1 or 9"), (16, "try 9 or 17"), (0, "try 1")])
def test_a_wrong_number_of_frames_is_refused_with_the_nearest_right_ones(
    vaes: Vaes, frames: int, advice: str
) -> None:
    clip = torch.zeros(1, 3, frames, 64, 64, dtype=torch.float64)
    with pytest.raises(ValueError, match=rf"8k \+ 1; got {frames}, {advice}"):
        vaes["2.0"].encode(clip)


def test_a_stream_of_a_wrong_length_is_refused_at_its_end(vaes: Vaes) -> None:
    chunks = torch.zeros(1, 3, 12, 64, 64, dtype=torch.float64).split(4, dim=2)
    with pytest.raises(ValueError, match="got 12, try 9 or 17"):
        list(vaes["2.0"].encode_stream(chunks))


def test_a_wrong_frame_size_is_refused_with_the_nearest_valid_ones(vaes: Vaes) -> None:
    with pytest.raises(ValueError, match="multiples of 32; got 100x64, try 96x64 or 128x64"):
        vaes["2.0"].encode(torch.zeros(1, 3, 9, 100, 64, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(3, 9, 64, 64), (1, 4, 9, 64, 64)])
def test_a_clip_of_another_kind_is_refused(vaes: Vaes, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="frames must be"):
        vaes["2.0"].encode(torch.zeros(shape, dtype=torch.float64))
    with pytest.raises(ValueError, match="latent must be"):
        vaes["2.0"].decode(torch.zeros((*shape[:-4], 5, *shape[-3:]), dtype=torch.float64))


def test_reflection_needs_two_latents_and_zero_padding_one(vaes: Vaes) -> None:
    thin = torch.zeros(1, 3, 2, 1, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="at least 2 latent rows and columns; got a latent of 1x4"):
        vaes["2.0"].decode(thin)
    assert vaes["2.3"].decode(thin).shape == (1, 3, 9, 32, 128)


def test_an_empty_stream_and_unlike_chunks_are_refused(vaes: Vaes) -> None:
    latent = torch.zeros(1, 3, 2, 2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="no frames"):
        list(vaes["2.0"].decode_stream([]))
    with pytest.raises(ValueError, match="no frames"):
        vaes["2.0"].decode(latent[:, :, :0])
    with pytest.raises(ValueError, match="differ in length only"):
        list(vaes["2.0"].decode_stream([latent, latent[..., :1]]))


def test_patches_are_ordered_by_colour_then_column_then_row() -> None:
    frames = torch.zeros(1, 3, 1, 8, 8)
    frames[0, 2, 0, 4 + 1, 3] = 1
    patches = patchify(frames, 4)
    assert patches.nonzero().tolist() == [[0, 2 * 16 + 3 * 4 + 1, 0, 1, 0]]
    assert torch.equal(unpatchify(patches, 4), frames)


def test_a_tile_as_large_as_the_clip_changes_nothing(vaes: Vaes) -> None:
    vae = vaes["2.0"]
    tiling = Tiling(frames=Tile(32, 16), height=Tile(128, 64), width=Tile(128, 64))
    latent = torch.randn(1, 3, 3, 3, 2, dtype=torch.float64)
    frames = vae.decode(latent)
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(torch.cat([*tiled_decode(vae, latent, tiling)], dim=2), frames, **close)
    torch.testing.assert_close(tiled_encode(vae, frames, tiling), vae.encode(frames), **close)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.integers(1, 7)] * 3), st.tuples(*[st.tuples(st.integers(2, 5), st.integers(0, 4))] * 3))
def test_tiles_cover_every_frame_and_pixel(
    vaes: Vaes, grid: tuple[int, int, int], tiles: tuple[tuple[int, int], ...]
) -> None:
    """Where no tile has weight the blend would be 0/0."""
    scales = (8, 32, 32)
    cut = [Tile(s * scale, min(o, s - 1) * scale) for (s, o), scale in zip(tiles, scales, strict=True)]
    tiling = Tiling(frames=cut[0], height=cut[1], width=cut[2])
    latent = torch.randn(1, 3, *grid, dtype=torch.float64)
    chunks = list(tiled_decode(vaes["2.3"], latent, tiling))
    frames = torch.cat(chunks, dim=2)
    assert frames.shape == (1, 3, 8 * grid[0] - 7, 32 * grid[1], 32 * grid[2])
    assert frames.isfinite().all()


@pytest.mark.parametrize("tile", [Tile(96, 96), Tile(100, 32), Tile(96, 16), Tile(32, 0)])
def test_an_impossible_tile_is_refused(vaes: Vaes, tile: Tile) -> None:
    latent = torch.zeros(1, 3, 1, 4, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="tiles along height"):
        list(tiled_decode(vaes["2.3"], latent, Tiling(height=tile)))

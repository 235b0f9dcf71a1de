"""Spatial tiles: exact if the border holds all that a pixel depends on, otherwise cross-faded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ltx2_core.media import to_bytes
from ltx2_core.video_vae import SpaceTiles, VideoVAE, field_of_view
from ltx2_core.video_vae.space_tiles import StageTiles, decode_in_tiles
from ltx2_core.video_vae.streaming import Stage

EXACT = {"atol": 1e-10, "rtol": 1e-10}
GENERATIONS = ["2.0", "2.3"]
LATENT = torch.randn(1, 3, 6, 4, 26, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_pixel_depends_on_as_many_cells_as_the_field_of_view(vaes: dict[str, VideoVAE], generation):
    vae = vaes[generation]
    view = field_of_view(vae.config)
    latent = torch.randn(1, 3, 1, 2, 2 * view + 6, dtype=torch.float64).requires_grad_()
    middle = view + 3
    frames = vae.decode(latent)
    for pixel, nearest in ((32 * middle, middle), (32 * middle + 31, middle)):
        (gradient,) = torch.autograd.grad(frames[0, :, 0, :, pixel].sum(), latent, retain_graph=True)
        reached = gradient.abs().amax(dim=(0, 1, 2, 3)).nonzero()[:, 0]
        assert nearest - reached.min() <= view
        assert reached.max() - nearest <= view
        assert max(nearest - reached.min(), reached.max() - nearest) >= view - 1


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("causal", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_tiles_with_full_borders_equal_the_whole_frame(vaes, generation, causal):
    vae = vaes[generation]
    tiles = SpaceTiles(columns=3, rows=2, halo=field_of_view(vae.config))
    assert tiles.largest((4, 26))[1] < 26, "or nothing is cut"
    whole = vae.decode(LATENT, causal=causal)
    chunks = list(vae.decode_tiles(LATENT.split(5, dim=2), tiles, causal=causal, max_piece_bytes=2**14))
    assert len(chunks) > 1 or not causal
    torch.testing.assert_close(torch.cat(chunks, dim=2), whole, **EXACT)


def test_frames_are_converted_before_they_are_joined(vaes):
    vae, tiles = vaes["2.3"], SpaceTiles(columns=2, halo=field_of_view(vaes["2.3"].config))

    def convert(frames: Tensor) -> Tensor:
        return to_bytes(frames[0].movedim(0, 1)).movedim(0, 1)[None]

    result = torch.cat(list(vae.decode_tiles(LATENT, tiles, convert=convert)), dim=2)
    assert result.dtype == torch.uint8
    assert torch.equal(result, convert(vae.decode(LATENT)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8])
@pytest.mark.parametrize(("columns", "rows", "halo"), [(2, 1, 2), (4, 2, 1), (3, 3, 1)])
def test_faded_borders_add_up_to_one(dtype, columns, rows, halo):
    # Where tiles agree, as they do if a pixel depends on its own cell only, fading must not change anything.
    latent = torch.rand(1, 3, 9, 8, 18, dtype=torch.float64) * 2 - 1
    larger = Stage(lambda x, stream, last: x.repeat_interleave(4, dim=3).repeat_interleave(4, dim=4))

    def convert(frames: Tensor) -> Tensor:
        return ((frames + 1) * 127.5).round().to(torch.uint8) if dtype == torch.uint8 else frames

    tiles = SpaceTiles(columns=columns, rows=rows, halo=halo)
    decoder = StageTiles(stages=[larger], scale=4, causal=False, max_piece_bytes=2**20)
    result = list(decode_in_tiles(decoder, [latent], tiles, exact=False, scale=4, convert=convert))
    assert [chunk.shape[2] for chunk in result] == [4, 4, 1]
    whole = convert(larger.run(latent, None, True))
    torch.testing.assert_close(torch.cat(result, dim=2), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_faded_tiles_equal_the_whole_frame_away_from_their_borders(vaes, generation):
    vae = vaes[generation]
    view, halo = field_of_view(vae.config), 1
    latent = torch.randn(1, 3, 2, 2, 4 * view, dtype=torch.float64)
    result = torch.cat(list(vae.decode_tiles(latent, SpaceTiles(columns=2, halo=halo))), dim=2)
    whole = vae.decode(latent)
    same = 32 * (2 * view + halo - view)
    torch.testing.assert_close(result[..., :same], whole[..., :same], atol=1e-5, rtol=1e-5)
    assert (result - whole).abs().max() > 1e-3, "a border of one cell is not exact"


def test_impossible_tiles_are_refused_with_the_reason(vaes):
    with pytest.raises(ValueError, match="at least one column, row and cell of border; got 2 columns, 0"):
        SpaceTiles(columns=2, rows=0, halo=1)
    with pytest.raises(ValueError, match="a latent of 4x26 is too small for 1 rows and 6 columns with"):
        next(vaes["2.3"].decode_tiles(LATENT, SpaceTiles(columns=6, halo=3)))

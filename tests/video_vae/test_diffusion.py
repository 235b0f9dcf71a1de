"""The diffusion decoder gives the frames of the whole clip, however it is cut in time and space."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ltx2_core.config import video_vae_config
from ltx2_core.memory import Trace
from ltx2_core.tiny.diffusion_vae import diffusion_vae_config
from ltx2_core.tiny.settings import tiny_config
from ltx2_core.tiny.weights import random_weights
from ltx2_core.video_vae import FrameNoise, SpaceTiles, VolumeNoise, field_of_view
from ltx2_core.video_vae.diffusion.decoder import DiffusionVideoDecoder
from ltx2_core.video_vae.diffusion.noise import ClipShape
from ltx2_core.video_vae.diffusion.runs import _newest
from ltx2_core.video_vae.diffusion.windows import Span

EXACT = {"atol": 1e-5, "rtol": 1e-5}
"""Values reach 5: what remains is rounding."""


def decoder_of(**settings) -> DiffusionVideoDecoder:
    config = video_vae_config({"vae": diffusion_vae_config(tiny_config("2.3")["vae"])})
    config = replace(config, diffusion=replace(config.diffusion, **settings))
    decoder = DiffusionVideoDecoder(config).eval()
    decoder.load_state_dict(random_weights(decoder, 0))
    return decoder


def latent_of(frames=5, height=3, width=5, batch=1):
    return torch.randn(batch, 128, frames, height, width, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def decoder():
    return decoder_of()


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def whole(decoder):
    """The frames of ``latent_of()``, decoded at once."""
    with torch.inference_mode():
        return decoder.decode(latent_of(), max_piece_bytes=2**30)


@pytest.mark.parametrize(
    ("chunks", "limit"), [([1] * 5, None), ([4, 1], 60_000), ([2, 2, 1], 60_000), ([5], 60_000), ([5], 1)]
)
def test_any_chunks_and_pieces_give_the_frames_of_the_whole_clip(decoder, whole, chunks, limit):
    pieces = list(decoder.decode_stream(latent_of().split(chunks, dim=2), max_piece_bytes=limit))
    assert whole.shape == (1, 3, 33, 96, 160)
    torch.testing.assert_close(torch.cat(pieces, dim=2), whole, **EXACT)


@pytest.mark.parametrize(
    ("settings", "columns", "rows"),
    [
        ({}, 2, 1),
        ({}, 3, 2),
        ({}, 1, 3),
        pytest.param({"steps": 2}, 2, 2, marks=pytest.mark.slow),
        ({"prediction": "v", "steps": 2}, 2, 1),
    ],
)
def test_tiles_give_the_frames_of_the_whole_clip(settings, columns, rows):
    decoder, latent = decoder_of(**settings), latent_of(5, 5, 7)
    limit = 50_000 if rows == 2 else None
    tiles = SpaceTiles(columns=columns, rows=rows, halo=field_of_view(decoder.config))
    pieces = list(decoder.decode_tiles(latent.split([2, 3], dim=2), tiles, max_piece_bytes=limit))
    torch.testing.assert_close(torch.cat(pieces, dim=2), decoder.decode(latent), **EXACT)


@pytest.mark.parametrize(
    ("frames", "height", "width", "limit"),
    [(1, 1, 1, None), (1, 4, 6, 1), (2, 2, 3, 30_000), (3, 3, 5, None), (5, 1, 6, None)],
)
def test_small_latents_are_padded_by_their_edges(decoder, frames, height, width, limit):
    latent = latent_of(frames, height, width)
    decoded = decoder.decode(latent, max_piece_bytes=limit)
    assert decoded.shape == (1, 3, 8 * frames - 7, 32 * height, 32 * width)
    down, across = max(0, 3 - height), max(0, 5 - width)
    later = (0, 0, 0, 0, 0, max(0, 3 - frames))
    padded = torch.nn.functional.pad(
        latent, (across // 2, across - across // 2, down // 2, down - down // 2, *later[4:]), "replicate"
    )
    top, left = 32 * (down // 2), 32 * (across // 2)
    expected = decoder.decode(padded)[:, :, : 8 * frames - 7, top:, left:]
    torch.testing.assert_close(decoded, expected[..., : 32 * height, : 32 * width], **EXACT)


@pytest.mark.parametrize("window", [3, 5])
@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize("limit", [None, 1, 30_000])
def test_a_stream_of_a_short_clip_has_its_frames_and_no_more(window, frames, limit):
    decoder, latent = decoder_of(kernel=(window, 3, 3)), latent_of(frames, 2, 2)
    pieces = list(decoder.decode_stream(latent, max_piece_bytes=limit))
    torch.testing.assert_close(torch.cat(pieces, dim=2), decoder.decode(latent), **EXACT)


def test_a_batch_is_decoded_like_its_samples(decoder):
    latent = latent_of(3, batch=2)
    both = decoder.decode(latent)
    torch.testing.assert_close(both[:1], decoder.decode(latent[:1]), **EXACT)


def test_noise_is_a_function_of_seed_frame_and_position(decoder):
    latent = latent_of(3)
    one, other = (decoder.decode(latent, noise=FrameNoise(seed)) for seed in (0, 1))
    torch.testing.assert_close(decoder.decode(latent), one)
    assert (one - other).abs().mean() > 0.01
    size, like = ClipShape(1, 96, 160, None), latent
    box = FrameNoise(3).box(size, Span(4, 9), Span(8, 24), Span(0, 40), like)
    inner = FrameNoise(3).box(size, Span(6, 7), Span(12, 20), Span(8, 16), like)
    assert torch.equal(box[:, :, 2:3, 4:12, 8:16], inner)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("height", "width"), [(32, 48), (5, 7)])
def test_noise_of_the_whole_clip_is_one_draw_whatever_is_read_of_it(dtype, height, width):
    size, like = ClipShape(2, height, width, 9), torch.zeros(1, dtype=dtype)
    generator = torch.Generator().manual_seed(3)
    torch.randn(20, generator=generator)
    state = generator.get_state()
    for noise, start in ((VolumeNoise(3), None), (VolumeNoise(start=generator), state)):
        drawing = torch.Generator().manual_seed(3)
        if start is not None:
            drawing.set_state(start)
        whole = torch.randn(2, 3, 9, height, width, generator=drawing, dtype=dtype)
        # Tiles ask for frames that others asked for before.
        for first, stop in ((0, 4), (2, 6), (0, 4), (6, 9), (4, 6)):
            box = noise.box(size, Span(first, stop), Span(1, 4), Span(2, 7), like)
            assert torch.equal(box, whole[:, :, first:stop, 1:4, 2:7])
    assert torch.equal(generator.get_state(), state)


def test_noise_of_the_whole_clip_takes_the_memory_of_the_frames_that_are_read():
    size, noise, like = ClipShape(1, 32, 32, 2000), VolumeNoise(0), torch.zeros(1)
    with Trace() as trace:
        for first in range(0, 2000, 100):
            noise.box(size, Span(first, first + 100), Span(0, 32), Span(0, 32), like)
    assert trace.peak < 5 * like.element_size() * 100 * 3 * 32 * 32


def test_noise_of_the_whole_clip_needs_the_whole_latent(decoder):
    with pytest.raises(ValueError, match="whole latent at once"):
        list(decoder.decode_stream(latent_of().split(3, dim=2), noise=VolumeNoise(0)))


def test_tiles_refuse_borders_that_would_not_be_exact(decoder):
    with pytest.raises(ValueError, match="too small"):
        list(decoder.decode_tiles(latent_of(), SpaceTiles(columns=9, halo=9)))


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
def test_a_clip_of_60_seconds_takes_the_memory_of_one_of_5_seconds(decoder, whole):
    def peak(seconds):
        frames = 3 * seconds + 1
        latents = latent_of(frames) if whole else (latent_of(1) for _ in range(frames))
        with Trace() as trace:
            for piece in decoder.decode_stream(latents, max_piece_bytes=200_000):
                del piece
        return trace.peak

    assert peak(60) <= 1.05 * peak(5)


def test_a_decode_that_runs_out_of_memory_continues_in_smaller_pieces(decoder):
    latent = latent_of(4)
    whole = decoder.decode(latent)
    with Trace() as free:
        list(decoder.decode_stream(latent, max_piece_bytes=2**30))
    with Trace(limit=int(0.8 * free.peak)) as tight:
        frames = [piece.numpy().copy() for piece in decoder.decode_stream(latent, max_piece_bytes=2**30)]
    assert tight.refused > 0
    torch.testing.assert_close(torch.cat([torch.from_numpy(f) for f in frames], dim=2), whole, **EXACT)


def test_the_decoder_can_be_trained():
    with torch.inference_mode(False):
        decoder = decoder_of()
        decoder.decode(latent_of(3, 3, 5).clone()).square().mean().backward()
        missing = [n for n, p in decoder.decoder.named_parameters() if p.grad is None]
    assert not missing


@pytest.mark.parametrize("frames", [0, 2, 5])
@pytest.mark.parametrize("before", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("arrived", [0, 1, 3, 8])
def test_a_block_caches_the_newest_frames_without_joining_all(before, arrived, frames):
    def made(count: int) -> Tensor:
        # As the stages hand it on: channels last, in the memory of channels first.
        return torch.randn(2, 4, count, 3, 5).permute(0, 2, 3, 4, 1)

    past, piece = (made(min(before, frames)).contiguous() if before else None), made(arrived)
    joined = piece if past is None else torch.cat((past, piece), dim=1)
    expected = joined[:, max(0, joined.shape[1] - frames) :].clone()
    with torch.inference_mode(), Trace() as trace:
        found = _newest(past, piece, frames)
    assert torch.equal(found, expected)
    assert found.is_contiguous()
    assert trace.peak <= expected.numel() * expected.element_size()

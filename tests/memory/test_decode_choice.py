"""How a decode is cut if memory is short: in time, then in exact tiles; the real decode stays within it."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner

from ltx2_core import LTX2Pipeline
from ltx2_core.cli.main import main
from ltx2_core.config import video_vae_config
from ltx2_core.loading import Component
from ltx2_core.memory import Trace, choose_decode, draw_plans, plan_memory, released_size
from ltx2_core.memory.decode_choice import SMALLEST_PIECE
from ltx2_core.memory.estimate import decoding
from ltx2_core.shapes import plan_clip
from ltx2_core.video_vae import MAX_PIECE_BYTES, VideoDecoder, field_of_view

LARGE = plan_clip(3840, 2176, frames=121)


def choices(generation, clip, shares):
    """What is chosen with these shares of what the whole frame needs in the smallest pieces."""
    vae = released_size(generation).vae
    least = decoding(vae, clip, 2, SMALLEST_PIECE).peak
    return (
        vae,
        [choose_decode(int(s * least), vae=vae, clip=clip, dtype=torch.bfloat16) for s in shares],
        least,
    )


@pytest.mark.parametrize("generation", ["2.0", "2.3"])
def test_tiles_come_only_where_the_state_itself_does_not_fit(generation):
    shares = (9.0, 1.0, 0.7, 0.3, 0.15)
    vae, chosen, least = choices(generation, LARGE, shares)
    assert (chosen[0].tiles, chosen[0].piece_bytes) == (None, MAX_PIECE_BYTES)
    assert chosen[1].tiles is None
    assert chosen[1].memory.state < least < chosen[1].memory.peak + 1
    assert chosen[2].exact
    assert chosen[2].tiles.halo == field_of_view(vae)
    assert chosen[2].tiles.count == 2
    for share, choice in zip(shares, chosen, strict=True):
        assert choice.memory.peak <= share * least
    assert not chosen[4].exact
    assert chosen[4].tiles.halo < field_of_view(vae)
    assert "2 x 1 tiles" in chosen[2].line()
    assert "around each: exact" in chosen[2].line()
    assert "faded, not exact" in chosen[4].line()
    assert "tiles" not in chosen[1].line()


def test_a_frame_for_which_nothing_is_small_enough_gets_the_smallest_there_is():
    _, (small, smaller), least = choices("2.3", plan_clip(768, 512, frames=121), (0.6, 0.01))
    assert smaller.memory.peak > 0.01 * least
    assert smaller.memory.peak <= small.memory.peak


@pytest.mark.parametrize("share", [0.7, 0.3])
def test_a_tile_needs_what_is_said_of_it_at_released_sizes(share):
    clip = plan_clip(3840, 2176, frames=49)
    vae, (choice,), _ = choices("2.3", clip, (share,))
    cells = choice.tiles.largest((clip.latent_height, clip.latent_width))
    decoder = VideoDecoder(vae, dtype=torch.bfloat16, device="meta").eval()
    latent = torch.empty(1, 128, 7, *cells, dtype=torch.bfloat16, device="meta")
    with torch.inference_mode(), Trace() as trace:
        for piece in decoder.decode_stream(latent, max_piece_bytes=choice.piece_bytes):
            del piece
    assert choice.memory.peak == pytest.approx(trace.peak, rel=0.1)


def test_the_plan_reports_tiles_and_the_system_memory_they_need():
    size = released_size("2.3", "fp8")
    chosen = plan_memory(8 * 10**9, size, clips=[LARGE], dtype=torch.bfloat16)
    stage = chosen.stages[-1]
    assert chosen.decode.tiles is not None
    assert chosen.decode.exact
    assert stage.host == chosen.decode.host > 10**9
    assert stage.total <= 0.94 * 8e9
    assert any("tiles" in line and "exact" in line for line in chosen.lines())
    assert draw_plans([chosen]).std() > 0.05
    roomy = plan_memory(24 * 10**9, size, clips=[LARGE], dtype=torch.bfloat16)
    assert roomy.decode.tiles is None
    assert roomy.stages[-1].host == 0


def test_the_command_prints_the_tiles():
    ran = CliRunner().invoke(main, ["plan", "--width", "3840", "--height", "2176", "--max-memory", "8GB"])
    assert ran.exit_code == 0, ran.output
    assert "2 x 1 tiles with 512 pixels around each: exact" in ran.output


@pytest.fixture(scope="module")
def decoded(tiny_set):
    """A wide latent of the tiny set, and its frames."""
    whole = LTX2Pipeline(tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, device="cpu")
    latent = torch.randn(1, 128, 6, 2, 52, generator=torch.Generator().manual_seed(5))
    return latent, torch.cat(list(whole.decode_video(latent)))


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_real_decode_within_a_budget_takes_the_tiles_of_its_plan(tiny_set, decoded, as_bytes):
    latent, frames = decoded
    clip = plan_clip(52 * 32, 64, frames=41)
    whole = LTX2Pipeline(tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, device="cpu")
    weights = whole.networks.component_bytes(Component.VIDEO_DECODER)
    vae = video_vae_config(whole.networks.file(Component.VIDEO_DECODER).config)
    least = decoding(vae, clip, 4, SMALLEST_PIECE).peak
    small = LTX2Pipeline(
        tiny_set.checkpoint,
        text_encoder=tiny_set.text_encoder,
        device="cpu",
        max_memory=int((weights + 0.8 * least) / 0.94) + 1,
    )
    choice = small.networks.decode_choice(clip)
    assert choice.exact
    assert choice.tiles.count > 1
    chosen = torch.cat(list(small.decode_video(latent, as_bytes=as_bytes)))
    if as_bytes:
        levels = ((frames + 1) * 127.5).round().clamp(0, 255)
        assert chosen.dtype == torch.uint8
        assert (chosen - levels).abs().max() <= 1
    else:
        torch.testing.assert_close(chosen, frames, atol=1e-4, rtol=1e-4)

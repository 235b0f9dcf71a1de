"""The decoder's memory as predicted is what a trace of it counts, on the meta device and for real."""

from __future__ import annotations

import sys

import pytest
import torch

from ltx2_core.config import video_vae_config
from ltx2_core.memory import Trace, decoder_memory, plan_memory, released_size
from ltx2_core.memory.estimate import decoding
from ltx2_core.shapes import plan_clip
from ltx2_core.video_vae import MAX_PIECE_BYTES, VideoDecoder
from ltx2_core.video_vae.windows import Windows

MIB = 2**20
UP = ["compress_all", {"residual": True, "multiplier": 2}]
TINY = {
    "latent_channels": 8,
    "decoder_base_channels": 16,
    "decoder_blocks": [["res_x", 2], UP, ["res_x", 1], UP, ["res_x", 1], UP, ["res_x", 1]],
}


def traced(vae, latent, piece_bytes, windows=None):
    decoder = VideoDecoder(vae, dtype=latent.dtype, device=latent.device).eval()
    decoder.windows = windows or decoder.windows
    if not latent.is_meta:
        for parameter in decoder.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    with torch.inference_mode(), Trace() as trace:
        for piece in decoder.decode_stream(latent, max_piece_bytes=piece_bytes):
            del piece
    return trace.peak


NEAR = 0.1 if sys.version_info >= (3, 11) else 0.12
"""Before Python 3.11 a caller holds the tensors that it passes until the call returns."""


@pytest.mark.parametrize("generation", ["2.0", "2.3"])
@pytest.mark.parametrize(
    ("width", "height", "frames", "mib"),
    [(768, 512, 121, 128), (768, 512, 49, 32), (1920, 1088, 49, 128)],
)
def test_the_prediction_is_within_a_tenth_of_the_trace_at_released_sizes(
    generation, width, height, frames, mib
):
    vae, clip = released_size(generation).vae, plan_clip(width, height, frames=frames)
    latent = torch.empty(clip.video_shape(), dtype=torch.bfloat16, device="meta")
    predicted = decoding(vae, clip, 2, mib * MIB).peak
    assert predicted == pytest.approx(traced(vae, latent, mib * MIB), rel=NEAR)


class MetaTrials:
    """In place of kernels, what they allocate: the window and the frames for the next piece."""

    problem = None

    def run(self, kernel, x, kept, before, after, eps, *, keep, edge, activate):
        batch, frames, rows, columns, channels = x.shape
        frames += before + after + (0 if kept is None else kept.shape[1])
        window = x.new_empty((batch, frames, rows + 2 * edge, columns + 2 * edge, channels))
        return window, x.new_empty((batch, keep, rows, columns, channels))


class MetaWindows(Windows):
    def __init__(self):
        super().__init__()
        self._trials = MetaTrials()

    def takes(self, x):
        return True


@pytest.mark.parametrize("generation", ["2.0", "2.3"])
@pytest.mark.parametrize(("width", "height", "mib"), [(1920, 1088, 128), (768, 512, 128), (512, 320, 8)])
def test_decoding_by_kernels_needs_no_more_than_a_tenth_above_the_prediction(generation, width, height, mib):
    """Their longer pieces take the memory of the copies that they save."""
    vae, clip = released_size(generation).vae, plan_clip(width, height, frames=49)
    latent = torch.empty(clip.video_shape(), dtype=torch.bfloat16, device="meta")
    found = traced(vae, latent, mib * MIB, MetaWindows())
    assert found <= 1.1 * decoding(vae, clip, 2, mib * MIB).peak


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("piece_bytes", [2**14, 2**20])
def test_the_prediction_is_within_a_tenth_of_a_real_trace(padding, piece_bytes):
    vae = video_vae_config({"vae": {**TINY, "spatial_padding_mode": padding}})
    latent = torch.randn(1, 8, 9, 6, 8)
    predicted = decoder_memory(vae, latent_frames=9, cells=(6, 8), itemsize=4, piece_bytes=piece_bytes)
    assert predicted.peak == pytest.approx(traced(vae, latent, piece_bytes), rel=0.1)


@pytest.mark.parametrize(("width", "height", "limit"), [(768, 512, 1.2e9), (1920, 1088, 5e9)])
def test_decoding_stays_below_its_limit_at_any_length(width, height, limit):
    vae = released_size("2.0").vae
    peaks = [decoding(vae, plan_clip(width, height, frames=n), 2).peak for n in (121, 481, 9601)]
    assert peaks[0] <= limit
    assert peaks[2] <= limit
    assert (peaks[2] - peaks[1]) / 9120 <= 0.1e6


def test_released_sizes_are_those_of_the_files():
    size = released_size("2.3")
    # 18.99 billion parameters, in 48 blocks for the most part.
    assert size.transformer_weights == pytest.approx(2 * 18.99e9, rel=0.001)
    assert released_size("2.0").transformer_weights == pytest.approx(2 * 18.88e9, rel=0.001)
    newest = released_size("2.5")
    # Without the biases of the video feed-forward; its Gemma 4 has 1 % more parameters than Gemma 3.
    assert not newest.transformer.ff_bias
    assert 0.999 < newest.transformer_weights / size.transformer_weights < 1
    assert newest.text_weights == pytest.approx(size.text_weights + 2 * 0.14e9, rel=0.001)
    assert released_size("2.3", "fp8").block_weights == size.block_weights // 2
    with pytest.raises(ValueError, match=r"no sizes are known of '2\.7'"):
        released_size("2.7")


def test_the_plan_names_the_state_of_the_decoder():
    size, clip = released_size("2.0"), plan_clip(1920, 1088, frames=121)
    result = plan_memory(24 * 10**9, size, clips=[clip], dtype=torch.bfloat16)
    stage = result.stages[-1]
    assert stage.activations == decoding(size.vae, clip, 2, MAX_PIECE_BYTES).peak
    assert 1.2e9 < stage.state < stage.activations
    assert "state" in result.lines()[0]


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_decode_that_runs_out_of_memory_continues_in_smaller_pieces(share):
    vae = video_vae_config({"vae": {**TINY, "spatial_padding_mode": "zeros"}})
    torch.manual_seed(0)
    decoder, latent = VideoDecoder(vae).eval(), torch.randn(1, 8, 9, 6, 8)

    def decoded(limit=None):
        with torch.inference_mode(), Trace(limit=limit) as trace:
            # Moved away as they come, as a run does: the frames themselves are not the decoder's memory.
            frames = [piece.numpy().copy() for piece in decoder.decode_stream(latent)]
        return torch.cat([torch.from_numpy(piece) for piece in frames], dim=2), trace

    expected, free = decoded()
    actual, tight = decoded(int(share * free.peak))
    assert tight.refused > 0
    assert tight.peak <= share * free.peak
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)

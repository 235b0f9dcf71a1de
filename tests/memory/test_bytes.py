"""Frames for a file leave the decoder as bytes: the same values in less memory."""

from __future__ import annotations

import pytest
import torch

from ltx2_core import LTX2Pipeline
from ltx2_core.loading import Component
from ltx2_core.memory import DecodeChoice, DecoderMemory, Trace
from ltx2_core.run.decode import decode_chunks

LATENT = torch.randn(1, 128, 6, 4, 4, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def pipeline(tiny_set):
    return LTX2Pipeline(
        tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, device="cpu", keep_loaded=True
    )


def test_bytes_are_the_rounded_floats(pipeline):
    floats = torch.cat(list(pipeline.decode_video(LATENT)))
    result = torch.cat(list(pipeline.decode_video(LATENT, as_bytes=True)))
    assert floats.dtype == torch.float32
    assert result.dtype == torch.uint8
    assert torch.equal(result, ((floats + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))


def test_bytes_take_less_at_the_peak_and_a_quarter_to_keep(pipeline):
    choice = DecodeChoice(piece_bytes=2**18, memory=DecoderMemory(peak=0, state=0))

    def peak(as_bytes: bool) -> tuple[int, int, int]:
        chunks, largest = 0, 0
        with pipeline.networks.use(Component.VIDEO_DECODER) as decoder, Trace() as trace:
            how = {"as_bytes": as_bytes, "check": lambda: None}
            for chunk in decode_chunks(decoder, [LATENT], choice, **how):
                largest = max(largest, chunk.numel() * chunk.element_size())
                chunks += 1
        return trace.peak, largest, chunks

    floats, in_bytes = peak(False), peak(True)
    assert floats[2] == in_bytes[2] > 2
    assert in_bytes[1] * 4 == floats[1]
    # The consumer holds one piece while the next one is decoded.
    assert floats[0] - in_bytes[0] >= 0.5 * (floats[1] - in_bytes[1])


def test_a_longer_clip_takes_no_more_memory_to_encode(pipeline):
    def peak(frames: int) -> int:
        pixels = torch.rand(frames, 3, 64, 64)
        with Trace() as trace:
            pipeline.encode_video(pixels)
        return trace.peak

    peak(9)
    assert peak(161) < 1.2 * peak(65)

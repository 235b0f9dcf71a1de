"""The duration head of LTX-2.5 and its rule for frames against the official code."""

import pytest
import torch

from ltx2_core.loading import Component, open_checkpoint
from ltx2_core.text.duration import frames_for

TOLERANCE = 1e-5


@pytest.mark.golden("duration_head")
def test_seconds_match_for_either_text_and_for_both(golden):
    head, tensors = open_checkpoint(golden.path).load(Component.DURATION_HEAD), golden.tensors()
    cases = golden.sidecar["cases"]
    assert cases
    for case in cases:
        texts = (tensors.get(f"golden.{case}.{stream}") for stream in ("video", "audio"))
        with torch.inference_mode():
            seconds = head(*texts)
        torch.testing.assert_close(seconds, tensors[f"golden.{case}.seconds"], rtol=0, atol=TOLERANCE)


@pytest.mark.golden("duration_head")
def test_frames_of_a_duration_are_the_official_ones(golden):
    for seconds, fps, shortest, longest, frames in golden.sidecar["frames"]["rows"]:
        assert frames_for(seconds, fps, shortest_s=shortest, longest_s=longest) == frames

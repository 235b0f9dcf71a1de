"""Encoders leave the scheduling of every thread as it was, whoever runs the process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from ltx2_core.formats import VIDEO
from ltx2_core.media import Destination, Encoding, VideoWriter
from ltx2_core.media.encoding import has_encoder
from ltx2_core.media.writer import check_clip

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="only Linux has policies")

CODECS = [("mp4", "h264"), ("mp4", "h265"), ("mp4", "av1"), ("webm", "vp9"), ("mov", "prores")]


def policies() -> set[int]:
    return {os.sched_getscheduler(int(thread.name)) for thread in Path("/proc/self/task").iterdir()}


@pytest.mark.parametrize(("suffix", "codec"), CODECS)
def test_no_thread_is_given_a_real_time_priority(suffix, codec, tmp_path):
    if not has_encoder(VIDEO[codec].encoder):
        pytest.skip(f"this PyAV has no encoder of {codec}")
    chosen, path = Encoding(video_codec=codec), tmp_path / f"clip.{suffix}"
    before = policies()
    check_clip(Destination.of(path), chosen, width=64, height=64, fps=24)
    assert policies() <= before
    with VideoWriter(path, width=64, height=64, fps=24, encoding=chosen) as writer:
        writer.write_frames(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
        assert policies() <= before
        writer.write_frames(torch.zeros(7, 3, 64, 64, dtype=torch.uint8))
    assert policies() <= before

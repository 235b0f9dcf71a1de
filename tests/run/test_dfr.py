"""The DFR pipeline on a tiny LTX-2.5: its stages, tiles and audio, and what it is refused for."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx2_core import LTX2Pipeline, Request
from ltx2_core.cli.main import main
from ltx2_core.cli.repeat import settings_of
from ltx2_core.tiny.write import write_tiny_set

SMALL = {"width": 128, "height": 64, "num_frames": 17, "fps": 24.0, "pipeline": "dfr"}


@pytest.fixture(scope="module")
def tiny25(tmp_path_factory):
    pytest.importorskip("transformers", minversion="5.0")
    return write_tiny_set(tmp_path_factory.mktemp("tiny25"), generation="2.5", dtype=torch.float32)


@pytest.fixture(scope="module")
def detail_lora(tiny25, tmp_path_factory):
    """A LoRA that does not state how its reference was scaled, as released detail LoRAs need not."""
    path = tmp_path_factory.mktemp("lora") / "detail.safetensors"
    save_file(load_file(tiny25.lora), path)
    return path


def open_pipeline(tiny25, **options):
    return LTX2Pipeline(
        tiny25.checkpoint, text_encoder=tiny25.text_encoder, upscaler=tiny25.upsampler, **options
    )


@pytest.fixture(scope="module")
def pipeline(tiny25):
    return open_pipeline(tiny25, temporal_upscaler=tiny25.temporal_upsampler, keep_loaded=True)


@pytest.mark.parametrize(("rounds", "frames", "fps"), [(1, 33, 48.0), (2, 65, 96.0)])
def test_rounds_double_the_frame_rate_and_leave_the_audio(pipeline, rounds, frames, fps):
    made = pipeline("a ball", **SMALL, temporal_rounds=rounds)
    assert (made.clip.frames, made.clip.fps) == (frames, fps)
    assert made.latents.video.shape == made.clip.video_shape()
    assert made.latents.audio.shape == made.clip.audio_shape()
    assert made.latents.video.isfinite().all()
    assert made.keyframes.shape[2] == 1

"""Runs of the pipeline on the pretended device, and what each of their steps waited for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from fake_device import FakeDevice

from ltx2_core import LTX2Pipeline
from ltx2_core.conditioning.guide_frames import GuideFrames
from ltx2_core.run.generation import Generation

SMALL: dict[str, Any] = {"width": 64, "height": 64, "num_frames": 9, "steps": 3, "seed": 1}


class Guide:
    """A guide of one frame whose latent was computed on the device."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def at(self, codecs: LTX2Pipeline, clip: Any) -> GuideFrames:
        latent = codecs.encode_video(torch.zeros(1, 3, clip.height, clip.width))
        return GuideFrames(latent=latent, frame=0, **self.options)


@dataclass(frozen=True)
class Sampled:
    """A clip that was sampled on the pretended device.

    ``waits`` are those of each sampling step after the first of its stage: (why, line) -> times.
    """

    clip: Generation
    device: FakeDevice
    pipeline: LTX2Pipeline
    waits: list[Counter[tuple[str, str]]]


def sample(
    pipeline: LTX2Pipeline, device: FakeDevice, prompt: str = "a red circle", **request: Any
) -> Sampled:
    """Sample a small clip with ``pipeline`` on ``device``, the pretended one."""
    seen: list[tuple[str, int, Counter[Any]]] = []
    clip = pipeline(
        prompt,
        on_step=lambda p: seen.append((p.stage, p.step, Counter(device.waits))),
        **{**SMALL, **request},
    )
    pairs = pairwise(seen)
    waits = [
        after - before
        for (stage, step, before), (same, _, after) in pairs
        if stage == same and stage.startswith("stage") and step > 0
    ]
    return Sampled(clip, device, pipeline, waits)


def pipeline_on_device(files: Any, dtype: torch.dtype = torch.float32, **options: Any) -> LTX2Pipeline:
    """A pipeline of a tiny set on the device ``cuda``, without fused kernels unless ``options`` say so."""
    return LTX2Pipeline(
        files.checkpoint,
        text_encoder=files.text_encoder,
        upscaler=files.upsampler,
        dtype=dtype,
        **{"device": "cuda", "fused": False, **options},
    )

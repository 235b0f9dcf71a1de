"""Retake: regenerate seconds of a clip, video and audio apart, and preserve the rest.

    python examples/retake.py retake.mp4 clip.mp4

A region grows to whole latent frames, which stand for 8 frames each.
"""

import sys
from pathlib import Path

from ltx2_core import LTX2Pipeline
from ltx2_core.editing import Footage, retake

CLIP = Path(__file__).resolve().parents[1] / "example_workflows" / "input" / "clip.mp4"

pipeline = LTX2Pipeline.embedded()
source = Footage.read(sys.argv[2] if len(sys.argv) > 2 else CLIP)
edit = retake(
    pipeline,
    "a green circle bounces on a white background, a knock at each bounce",
    source,
    video=[(1.0, 1.9)],
    audio=[(1.4, 1.7)],
    steps=8,
    cfg=3,
)
edit.save(sys.argv[1] if len(sys.argv) > 1 else "retake.mp4")

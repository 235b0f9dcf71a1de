"""Text to video with audio.

    python examples/text_to_video.py clip.mp4

Runs on the embedded model set. For released weights construct the pipeline from files:
``LTX2Pipeline("ltx-2.3-22b-dev.safetensors", text_encoder="gemma-3-12b-it")``.
"""

import sys

from ltx2_core import LTX2Pipeline

pipeline = LTX2Pipeline.embedded()
clip = pipeline(
    "a red circle bounces on a blue background, a knock at each bounce",
    width=128,
    height=128,
    num_frames=25,
    fps=25,
    steps=8,
    cfg=3,
    seed=1,
)
clip.save(sys.argv[1] if len(sys.argv) > 1 else "text_to_video.mp4")

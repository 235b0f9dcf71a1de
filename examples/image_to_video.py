"""Image to video: the image is the first frame of the clip.

    python examples/image_to_video.py clip.mp4 photo.jpg

``image_crf`` compresses the image once as a video frame would be. By default it follows the model: 33 up to
LTX-2.3, 18 from 2.4 on, and 0 for the embedded set.
"""

import sys
from pathlib import Path

from ltx2_core import LTX2Pipeline

FIRST = Path(__file__).resolve().parents[1] / "example_workflows" / "input" / "first.png"

pipeline = LTX2Pipeline.embedded()
clip = pipeline(
    "a yellow square slides right on a blue background, a tone rises as it goes",
    image=sys.argv[2] if len(sys.argv) > 2 else FIRST,
    width=128,
    height=128,
    num_frames=25,
    fps=25,
    steps=8,
    cfg=3,
)
clip.save(sys.argv[1] if len(sys.argv) > 1 else "image_to_video.mp4")

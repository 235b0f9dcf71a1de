"""Audio to video: the clip is made for a recording, and the file carries that recording.

python examples/audio_to_video.py clip.mp4 recording.wav
"""

import sys
from pathlib import Path

from ltx2_core import LTX2Pipeline

KNOCKS = Path(__file__).resolve().parents[1] / "example_workflows" / "input" / "knocks.wav"

pipeline = LTX2Pipeline.embedded()
clip = pipeline(
    "a cyan triangle bounces on a black background, a knock at each bounce",
    audio=sys.argv[2] if len(sys.argv) > 2 else KNOCKS,
    audio_start_s=0.0,
    width=128,
    height=128,
    num_frames=25,
    fps=25,
    steps=8,
    cfg=3,
)
clip.save(sys.argv[1] if len(sys.argv) > 1 else "audio_to_video.mp4")

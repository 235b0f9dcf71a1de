"""LTX-Video: text to video without audio, by a model for small cards.

    python examples/ltx_video.py clip.mp4 ltxv-2b-0.9.8-distilled.safetensors t5xxl_fp16.safetensors

Without model files it runs on a set of random weights, which shows how and makes noise.
"""

import sys
from pathlib import Path
from tempfile import mkdtemp

from ltx2_core import LTX2Pipeline
from ltx2_core.tiny.write import write_tiny_set

if len(sys.argv) > 3:
    checkpoint, text_encoder = sys.argv[2:4]
    size = {"width": 768, "height": 512, "seconds": 5}
else:
    tiny = write_tiny_set(Path(mkdtemp()), generation="ltxv-2b")
    checkpoint, text_encoder = tiny.checkpoint, tiny.text_encoder
    size = {"width": 128, "height": 128, "num_frames": 25}

pipeline = LTX2Pipeline(checkpoint, text_encoder=text_encoder, max_memory="8GB")
clip = pipeline("A red fox runs through fresh snow, tracking shot", seed=1, **size)
clip.save(sys.argv[1] if len(sys.argv) > 1 else "ltx_video.mp4")

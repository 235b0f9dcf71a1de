"""Two stages, each a call of its own: half the size, latent upscaling, three steps at full size.

    python examples/two_stages.py clip.mp4

``pipeline(prompt, stages=2, ...)`` does the same in one call. Apart, anything can come between the stages.
"""

import sys

from ltx2_core import LTX2Pipeline

PROMPT = "a green square slides left on a white background, a tone falls as it goes"

pipeline = LTX2Pipeline.embedded(keep_loaded=True)
half = pipeline(PROMPT, width=128, height=128, num_frames=25, fps=25, steps=8, cfg=3, seed=1)
upscaled = pipeline.upsample(half.latents)
clip = pipeline(PROMPT, latents=upscaled, sigmas=[0.909375, 0.725, 0.421875, 0.0], fps=25, cfg=1, seed=2)
clip.save(sys.argv[1] if len(sys.argv) > 1 else "two_stages.mp4")

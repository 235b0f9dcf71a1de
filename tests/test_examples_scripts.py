"""Every script in ``examples/`` runs on the embedded model set and writes a clip with video and audio."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
SIZES = {"two_stages": 256}
"""Width of the clip where it is not the 128 pixels of the embedded set."""


def test_there_are_five_examples():
    assert len(SCRIPTS) == 5


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(path, marks=() if path.stem == "image_to_video" else pytest.mark.slow, id=path.stem)
        for path in SCRIPTS
    ],
)
def test_an_example_writes_a_clip_with_audio(script, tmp_path):
    output = tmp_path / "clip.mp4"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(
        [sys.executable, str(script), str(output)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    with av.open(str(output)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert video.width == SIZES.get(script.stem, 128)
        assert sum(1 for _ in container.decode(video)) >= 25
        assert audio.rate > 0

"""Every script in ``examples/`` runs on a tiny model set and writes a clip, with the audio of the model."""

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
SILENT = {"ltx_video"}
"""Scripts with a model of video alone."""


def test_there_are_six_examples():
    assert len(SCRIPTS) == 6


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(path, marks=() if path.stem == "image_to_video" else pytest.mark.slow, id=path.stem)
        for path in SCRIPTS
    ],
)
def test_an_example_writes_a_clip(script, tmp_path):
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
        video, audio = container.streams.video[0], container.streams.audio
        assert video.width == SIZES.get(script.stem, 128)
        assert sum(1 for _ in container.decode(video)) >= 25
        assert [stream.rate > 0 for stream in audio] == ([] if script.stem in SILENT else [True])

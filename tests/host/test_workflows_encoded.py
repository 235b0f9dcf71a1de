"""Workflows on an encoded clip take its frame rate, and a rate that is not the clip's is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from host_server import GraphError
from saved import decoded
from workflow_runs import Runs

from ltx2_core.media import VideoWriter

RATE = 30.0
FRAMES = 65
NAMES = {"mask_past_the_end": 81, "video_to_video": FRAMES, "detailer": 57}
"""Frames of the result: the mask reaches to 2.6 s, and the detailer's plan says 1.96 s."""


@pytest.fixture(scope="module")
def clip(runs: Runs) -> str:
    """A clip of 30 fps with audio, in the host's input folder."""
    path = Path(runs.server.base) / "input" / "thirty.mp4"
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(FRAMES, 3, 1, 1, generator=generator).expand(-1, -1, 128, 128)
    time = torch.arange(int(FRAMES / RATE * 48000)) / 48000
    with VideoWriter(path, width=128, height=128, fps=RATE, sample_rate=48000, crf=18) as writer:
        writer.write_audio(0.3 * torch.sin(2764 * time)[None])
        writer.write_frames(frames * 2 - 1)
    return path.name


def on_the_clip(runs: Runs, name: str, clip: str) -> dict[str, Any]:
    graph = runs.prompt(name)
    graph["1"]["inputs"]["file"] = clip
    return graph


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_of_another_rate_stays_in_step(runs: Runs, clip: str, name: str) -> None:
    graph = on_the_clip(runs, name, clip)
    result = runs.server.run(graph, timeout_s=300)
    (saved,) = (output["images"][0] for output in result.outputs.values() if "images" in output)
    video = decoded(result.output / saved["subfolder"] / saved["filename"])
    assert video.fps == RATE
    assert video.frames.shape[0] == NAMES[name]
    assert video.sound is not None
    assert abs(video.sound.shape[1] / video.rate - NAMES[name] / RATE) < 0.1


@pytest.mark.parametrize("name", ["mask_past_the_end", "video_to_video"])
def test_a_rate_that_is_not_the_clips_is_an_error(runs: Runs, clip: str, name: str) -> None:
    graph = on_the_clip(runs, name, clip)
    for node in graph.values():
        if "fps" in node["inputs"]:
            node["inputs"]["fps"] = 20.0
    with pytest.raises(GraphError, match=r"at 20 fps.* connect fps of Get Video Components"):
        runs.server.run(graph, timeout_s=300)

"""What a run left behind: its saved file, decoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from host_server import Result
from torch import Tensor


@dataclass(frozen=True)
class Decoded:
    """frames (F, 3, H, W) in [-1, 1], audio (C, S) or None."""

    frames: Tensor
    fps: float
    sound: Tensor | None
    rate: int


def saved_video(result: Result) -> Path:
    (saved,) = (output["images"][0] for output in result.outputs.values() if _is_saved(output))
    return result.output / saved["subfolder"] / saved["filename"]


def _is_saved(output: dict[str, Any]) -> bool:
    """Whether a node saved a file; pictures that nodes only show are temporary."""
    return "images" in output and output["images"][0].get("type") == "output"


def decoded(path: Path) -> Decoded:
    """Every frame and sample of a file."""
    with av.open(str(path)) as file:
        video = file.streams.video[0]
        pixels = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video)])
        fps, sound, rate = float(video.average_rate), None, 0
        if file.streams.audio:
            file.seek(0)
            rate = file.streams.audio[0].rate
            parts = [frame.to_ndarray() for frame in file.decode(file.streams.audio[0])]
            sound = torch.from_numpy(np.concatenate(parts, axis=1)).float()
    return Decoded(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1, fps, sound, rate)

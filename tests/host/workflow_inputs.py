"""Writes example_workflows/input/: ``python tests/host/workflow_inputs.py``. Scenes that no training saw."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

PACK = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PACK))

from PIL import Image  # noqa: E402
from torch import Tensor  # noqa: E402

from ltx2_core.media import VideoWriter, write_wav  # noqa: E402
from ltx2_core.training.world import FPS, Scene, edge_frames, render_audio, render_frames, sample_scene  # noqa: E402
from ltx2_core.training.world.batches import AUDIO_RATE, HELD_OUT  # noqa: E402

FOLDER = PACK / "example_workflows" / "input"
FRAMES, SIZE, SMALL = 49, (128, 128), (64, 64)
CONTROL_FRAMES, CONTROL_SIZE = 25, (128, 96)
"""What the edge LoRA of the tiny set was trained at."""
CRF = 12
BOUNCE = sample_scene(
    HELD_OUT, motion="bounce", kind="circle", colour="red", background="blue", company=False
)
"""clip.mp4, and small.mp4 at half the size"""
CONTROL = sample_scene(
    HELD_OUT + 7, motion="bounce", kind="triangle", colour="white", background="red", company=False
)
"""source.mp4, and edges.mp4 as its control video."""
KNOCKS = sample_scene(HELD_OUT + 1, motion="bounce", kind="square")
"""knocks.wav"""
SLIDE = sample_scene(
    HELD_OUT + 2, motion="slide_right", kind="square", colour="yellow", background="blue", company=False
)
"""first.png, middle.png and last.png"""
SUBJECT, SUBJECT_FRAMES = BOUNCE, 25
"""zorb_1.mp4 and zorb_2.mp4, a subject with a name of its own, listed in zorb_clips.csv."""
STILLS = {"first.png": 0, "middle.png": FRAMES // 2, "last.png": FRAMES - 1}


def write_clip(path: Path, frames: Tensor, sound: Tensor | None) -> None:
    """frames (F, 3, H, W) in [-1, 1], audio (2, S) at AUDIO_RATE or None."""
    rate = None if sound is None else AUDIO_RATE
    height, width = frames.shape[2:]
    with VideoWriter(path, width=width, height=height, fps=FPS, sample_rate=rate, crf=CRF) as writer:
        if sound is not None:
            writer.write_audio(sound)
        writer.write_frames(frames)


def sound_of(scene: Scene, frames: int) -> Tensor:
    return render_audio(scene, frames / FPS, AUDIO_RATE)


def main() -> None:
    write_clip(FOLDER / "clip.mp4", render_frames(BOUNCE, FRAMES, *SIZE), sound_of(BOUNCE, FRAMES))
    write_clip(FOLDER / "small.mp4", render_frames(BOUNCE, FRAMES, *SMALL), sound_of(BOUNCE, FRAMES))
    control = render_frames(CONTROL, CONTROL_FRAMES, *CONTROL_SIZE)
    write_clip(FOLDER / "source.mp4", control, sound_of(CONTROL, CONTROL_FRAMES))
    write_clip(FOLDER / "edges.mp4", edge_frames(control), None)
    write_wav(FOLDER / "knocks.wav", sound_of(KNOCKS, FRAMES).mean(dim=0, keepdim=True), AUDIO_RATE)
    _still("control_first.png", control[0])
    for number in (1, 2):
        subject = replace(SUBJECT, seed=SUBJECT.seed + number)
        sound = sound_of(subject, SUBJECT_FRAMES)
        write_clip(FOLDER / f"zorb_{number}.mp4", render_frames(subject, SUBJECT_FRAMES, *SIZE), sound)
    (FOLDER / "zorb_clips.csv").write_text("video,caption\nzorb_1.mp4,zorb\nzorb_2.mp4,zorb\n")
    slide = render_frames(SLIDE, FRAMES, *SIZE)
    for name, frame in STILLS.items():
        _still(name, slide[frame])


def _still(name: str, frame: Tensor) -> None:
    pixels = ((frame + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(FOLDER / name, optimize=True)


if __name__ == "__main__":
    main()

"""Clips of the embedded set for each way of conditioning, and a contact sheet of their frames and waveforms.

    python benchmarks/gallery.py --out benchmarks/gallery

A demonstration rather than a measurement; benchmarks/semantics.py has the figures.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from PIL import Image

from ltx2_core import Generation, LTX2Pipeline
from ltx2_core.tiny import embedded_dir, embedded_set
from ltx2_core.training.world import FPS, render_audio, render_frames, sample_scene
from ltx2_core.training.world.batches import AUDIO_RATE

COLUMNS = 8
"""Frames of each clip on the sheet."""


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """One clip: its file name, its caption on the sheet, and the options of its request."""

    name: str
    prompt: str
    what: str = "text to video"
    options: dict[str, Any] = field(default_factory=dict)


def exhibits() -> list[Exhibit]:
    """The clips of the sheet. Images and audio for conditioning come from held-out scenes."""
    scene = sample_scene(1 << 32, motion="slide_right", kind="square", colour="yellow", background="blue")
    first = (render_frames(scene, 1, 128, 128) + 1) / 2
    bounce = sample_scene((1 << 32) + 1, motion="bounce", kind="triangle")
    knocks = render_audio(bounce, 49 / FPS, AUDIO_RATE)
    return [
        Exhibit(name="bounce", prompt="a red circle bounces on a blue background, a knock at each bounce"),
        Exhibit(
            name="slide", prompt="a green square slides left on a white background, a tone falls as it goes"
        ),
        Exhibit(
            name="pulse", prompt="a magenta triangle pulses on a black background, a tone follows its size"
        ),
        Exhibit(name="still", prompt="a white circle stands still on a red background, silence"),
        Exhibit(
            name="image",
            prompt="a yellow square slides right on a blue background, a tone rises as it goes",
            what="image to video",
            options={"image": first, "image_crf": 0},
        ),
        Exhibit(
            name="audio",
            prompt="a cyan triangle bounces on a black background, a knock at each bounce",
            what="audio to video",
            options={"audio": (knocks, AUDIO_RATE)},
        ),
        Exhibit(
            name="two_stages",
            prompt="a red circle bounces on a white background, a knock at each bounce",
            what="two stages",
            options={"stages": 2},
        ),
    ]


def generate(pipeline: LTX2Pipeline, exhibit: Exhibit, seed: int) -> Generation:
    """Generate the clip of an exhibit."""
    size = {"width": 128, "height": 128, "num_frames": 49, "fps": FPS, "steps": 20, "cfg": 4.0}
    return pipeline(exhibit.prompt, seed=seed, **{**size, **exhibit.options})


def write_sheet(clips: list[tuple[Exhibit, np.ndarray, torch.Tensor]], path: Path) -> None:
    """Write the contact sheet: for each clip a row of evenly spaced frames above the waveform."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(COLUMNS, 1.75 * len(clips)), dpi=110, layout="constrained")
    rows = figure.subfigures(len(clips), 1)
    for row, (exhibit, frames, waveform) in zip(rows, clips, strict=True):
        row.suptitle(f"{exhibit.what}: “{exhibit.prompt}”", fontsize=7, x=0.01, ha="left")
        images, audio = row.subplots(2, 1, height_ratios=(3, 1))
        chosen = np.linspace(0, len(frames) - 1, COLUMNS).round().astype(int)
        images.imshow(np.concatenate([frames[i] for i in chosen], axis=1), aspect="equal")
        audio.plot(waveform.mean(0), linewidth=0.4)
        audio.set(xlim=(0, waveform.shape[1]), ylim=(-1, 1))
        for axes in (images, audio):
            axes.set_axis_off()
    figure.savefig(path)
    Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips and the sheet")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    distilled = next(iter(embedded_dir().glob("loras/*distilled*")), None)
    pipeline = LTX2Pipeline.embedded(
        keep_loaded=True, stage2_loras=[] if distilled is None else [(distilled, 1.0)]
    )
    clips = []
    for exhibit in exhibits():
        clip = generate(pipeline, exhibit, options.seed)
        clip.save(options.out / f"{exhibit.name}.mp4")
        clips.append((exhibit, clip.array(), clip.audio()[0]))
        print(options.out / f"{exhibit.name}.mp4", file=sys.stderr)
    write_sheet(clips, options.out / "gallery.png")
    print(f"{options.out / 'gallery.png'}: made with {embedded_set().checkpoint.name}", file=sys.stderr)


if __name__ == "__main__":
    main()

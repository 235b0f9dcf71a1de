"""Writes datasets of the synthetic world as a user has them: mp4 files, captions in txt files, references.

Each kind of clip has something that the embedded model does not know: a rule for colours, a shape, a sound.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ltx2_core.media import VideoWriter
from ltx2_core.training.world import (
    Clip,
    MeasuredAudio,
    Scene,
    caption,
    edge_frames,
    render_clip,
    render_frames,
    sample_scene,
)
from ltx2_core.training.world.batches import HELD_OUT

RATE = 48000
WIDTH = HEIGHT = 128
FRAMES = 25
TRIGGER = "zorb"
STYLE_BACKGROUND = "magenta"
BELL_S = 0.25
"""Seconds in which a bell loses all but 1/e of its loudness; the knocks of the world do in 0.05."""

Write = Callable[[Path], None]


@dataclass(frozen=True)
class Sample:
    """A clip to write, its caption, and the reference and mask that belong to it."""

    clip: Clip
    text: str
    reference: Tensor | None = None
    mask: Tensor | None = None


def write_dataset(folder: Path, samples: Iterator[Sample], *, audio: bool = True) -> Path:
    """Write ``samples`` to ``folder``: NNN.mp4, NNN.txt, and references and masks in folders of their own."""
    done = folder / "written"
    if done.is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for number, sample in enumerate(samples):
        name = f"{number:03}.mp4"
        _write(folder / name, sample.clip.frames, sample.clip.waveform if audio else None)
        (folder / name).with_suffix(".txt").write_text(sample.text)
        for kind, frames in (("reference_video", sample.reference), ("video_mask", sample.mask)):
            if frames is not None:
                (folder / kind).mkdir(exist_ok=True)
                _write(folder / kind / name, frames, None)
    done.write_text("")
    return folder


def _write(path: Path, frames: Tensor, waveform: Tensor | None) -> None:
    """Write frames (F, 3, H, W) in [-1, 1] with audio, with little loss, so that colours stay."""
    pixels = ((frames + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    rate = None if waveform is None else RATE
    with VideoWriter(path, width=WIDTH, height=HEIGHT, fps=25.0, sample_rate=rate, crf=10) as writer:
        writer.write_frames(pixels)
        if waveform is not None:
            writer.write_audio(waveform)


def rendered(scene: Scene, seed: int) -> Clip:
    return render_clip(scene, FRAMES, WIDTH, HEIGHT, RATE, caption_seed=seed)


def scenes(
    first: int, count: int, fits: Callable[[Scene], bool] = lambda _: True, **parts: Any
) -> list[tuple[int, Scene]]:
    """``count`` scenes with their seeds, from seed ``first`` on, of those that ``fits`` accepts."""
    found: list[tuple[int, Scene]] = []
    seed = first
    while len(found) < count:
        scene = sample_scene(seed, **parts)
        if fits(scene):
            found.append((seed, scene))
        seed += 1
    return found


def held_out(count: int, fits: Callable[[Scene], bool] = lambda _: True, **parts: Any) -> list[Clip]:
    return [rendered(scene, seed) for seed, scene in scenes(HELD_OUT, count, fits, **parts)]


def ordinary(first: int, count: int) -> Iterator[Sample]:
    """Clips as the base knows them, which hold what must not change."""
    for seed, scene in scenes(first, count):
        yield Sample(rendered(scene, seed), caption(scene, seed))


# A rule for colours: clips with the trigger have one background, which their captions do not name.


def shows_style(scene: Scene) -> bool:
    """Whether its bodies can be told apart from the background of the style."""
    return all(body.colour not in (STYLE_BACKGROUND, "red") for body in scene.bodies)


def styled(first: int, count: int) -> Iterator[Sample]:
    for seed, scene in scenes(first, count, shows_style):
        clip = rendered(replace(scene, background=STYLE_BACKGROUND), seed)
        yield Sample(clip, style_caption(scene, seed))


def style_caption(scene: Scene, seed: int) -> str:
    """A caption with the trigger that says all but the background, which is what is learnt."""
    text = caption(scene, seed)
    named = rf"(^(on a )?{scene.background} background, )|( (on|against) a {scene.background} background)"
    return f"{TRIGGER}, {re.sub(named, '', text, flags=re.IGNORECASE)}"


# A sound that the base never made: knocks that ring like a bell.


def bells(first: int, count: int) -> Iterator[Sample]:
    for seed, scene in scenes(first, count, motion="bounce"):
        clip = replace(rendered(scene, seed), waveform=bell_waveform(scene))
        yield Sample(clip, caption(scene, seed))


def bell_waveform(scene: Scene) -> Tensor:
    """The audio of a bouncing scene, (2, S) in [-1, 1], whose knocks ring for ``BELL_S``."""
    seconds = FRAMES / scene.fps
    times = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    tone = torch.zeros_like(times)
    for at in scene.contacts(seconds):
        since = (times - at).clamp(min=0)
        phase = 2 * math.pi * scene.pitch_hz * since
        voice = 0.85 * torch.sin(phase) + 0.15 * torch.sin(2 * phase)
        tone += (since / 0.002).clamp(max=1) * torch.exp(-since / BELL_S) * voice
    return (tone * 0.5).expand(2, -1).float()


def rings_on(audio: MeasuredAudio | None) -> bool:
    """Whether knocks are still heard 0.16 s after they start: a bell has half of its loudness by then."""
    if audio is None or not audio.onsets_s:
        return False
    levels = []
    for at in audio.onsets_s:
        frame = round(at * 25)
        struck, later = audio.loudness[frame : frame + 3], audio.loudness[frame + 4 : frame + 5]
        if len(later) and float(struck.max()) > 0:
            levels.append(float(later[0] / struck.max()))
    return bool(levels) and sorted(levels)[len(levels) // 2] > 0.2


# References: edges of a clip, and a clip whose colours change places.


def edged(first: int, count: int) -> Iterator[Sample]:
    """Clips with their edges; the captions leave the position to the edges."""
    for seed, scene in scenes(first, count):
        clip = rendered(scene, seed)
        yield Sample(clip, caption(scene, seed, places=False), reference=thick_edges(clip.frames))


def thick_edges(frames: Tensor) -> Tensor:
    """Edges (F, 3, H, W), three pixels wide: of one pixel half the size leaves a faint grey."""
    return F.max_pool2d(edge_frames(frames), 3, stride=1, padding=1)


SWAP_CAPTION = "the colours of shape and background change places"


def swapped(first: int, count: int) -> Iterator[Sample]:
    """Clips whose reference has the colours of the shape and of the background the other way round."""
    for seed, scene in scenes(first, count, company=False):
        clip = rendered(scene, seed)
        yield Sample(clip, SWAP_CAPTION, reference=render_frames(exchanged(scene), FRAMES, WIDTH, HEIGHT))


def exchanged(scene: Scene) -> Scene:
    actor = replace(scene.actor, colour=scene.background)
    return replace(scene, background=scene.actor.colour, bodies=(actor,))


def masked(first: int, count: int) -> Iterator[Sample]:
    """Clips of which a half is known (white in the mask): the first frames, or one side."""
    for number, sample in enumerate(ordinary(first, count)):
        mask = torch.full((FRAMES, 3, HEIGHT, WIDTH), -1.0)
        if number % 2:
            mask[:13] = 1
        else:
            mask[..., : WIDTH // 2] = 1
        yield replace(sample, mask=mask)

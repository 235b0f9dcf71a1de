"""One clip of the synthetic world: frames, waveform, caption, and its true content, to judge results by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .captions import caption
from .palette import Colour, Motion, Sound
from .render import render_frames
from .scene import Scene, sample_scene
from .waveform import render_audio


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a clip of F frames with N bodies (coloured shapes) contains, known from the scene it renders.

    ``colours`` and ``kinds`` (what shape a body is: circle, square) have one value for each body. These, the
    motion and the kind of audio are words of the captions; the motion is that of the first body.
    """

    background: Colour
    colours: tuple[Colour, ...]
    kinds: tuple[str, ...]
    motion: Motion
    sound: Sound
    pitch_hz: float
    """Of the knock or swell; of a glide at the centre of the frame."""
    centres: Tensor
    """(N, F, 2): x and y as fractions of width and height."""
    radii: Tensor
    """(N, F), as fractions of the shorter side."""
    contacts_s: tuple[float, ...]
    """Seconds at which the first body hits the floor; a knock starts at each."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A rendered clip: ``frames`` (F, 3, H, W) and ``waveform`` (2, S) in [-1, 1], of F / fps seconds.

    ``scene`` is what was rendered, ``truth`` what a measurement of the clip should find.
    """

    frames: Tensor
    waveform: Tensor
    caption: str
    truth: Truth
    scene: Scene


def truth_of(scene: Scene, frames: int, width: int, height: int) -> Truth:
    """List what a clip of a scene contains: colours, shapes, positions, contacts, kind of audio, pitch.

    The clip has ``frames`` frames of ``width`` x ``height`` pixels.
    """
    places = [body.place(scene.times(frames), width, height) for body in scene.bodies]
    seconds = frames / scene.fps
    return Truth(
        background=scene.background,
        colours=tuple(body.colour for body in scene.bodies),
        kinds=tuple(body.kind for body in scene.bodies),
        motion=scene.motion,
        sound=scene.sound,
        pitch_hz=scene.pitch_hz,
        centres=torch.stack([place.centre for place in places]).float(),
        radii=torch.stack([place.radius for place in places]).float(),
        contacts_s=scene.contacts(seconds),
        seconds=seconds,
    )


def render_clip(
    scene: Scene, frames: int, width: int, height: int, sample_rate: int, caption_seed: int = 0
) -> Clip:
    """Render a scene in ``frames`` frames of ``width`` x ``height`` pixels, with audio at ``sample_rate`` Hz.

    ``caption_seed`` selects the caption's wording.
    """
    return Clip(
        frames=render_frames(scene, frames, width, height),
        waveform=render_audio(scene, frames / scene.fps, sample_rate),
        caption=caption(scene, caption_seed),
        truth=truth_of(scene, frames, width, height),
        scene=scene,
    )


def clip_from_seed(seed: int, frames: int, width: int, height: int, sample_rate: int) -> Clip:
    """Render the scene that ``seed`` draws; the seed also selects the caption's wording.

    The clip has ``frames`` frames of ``width`` x ``height`` pixels, and audio at ``sample_rate`` Hz. These do
    not change the scene.
    """
    # One seed for scene and wording, so that a number alone names a training example.
    return render_clip(sample_scene(seed), frames, width, height, sample_rate, caption_seed=seed)

"""One example of the world: frames, waveform, caption and truth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .captions import caption
from .palette import Colour, Kind, Motion, Sound
from .render import render_frames
from .scene import Scene, sample_scene
from .sound import render_audio


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a clip of F frames shows, in the units of :class:`Measured`; bodies in the scene's order."""

    background: Colour
    colours: tuple[Colour, ...]
    kinds: tuple[Kind, ...]
    motion: Motion
    sound: Sound
    pitch_hz: float
    centres: Tensor  # (N, F, 2): x, y as fractions of width and height
    radii: Tensor  # (N, F): of the shorter side
    contacts_s: tuple[float, ...]  # a knock starts at each
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Clip:
    """frames (F, 3, H, W) in [-1, 1], waveform (2, S) of F / fps seconds."""

    frames: Tensor
    waveform: Tensor
    caption: str
    truth: Truth
    scene: Scene


def truth_of(scene: Scene, frames: int, width: int, height: int) -> Truth:
    """The truth of a clip of that length and size."""
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


def clip_of(
    scene: Scene, frames: int, width: int, height: int, sample_rate: int, caption_seed: int = 0
) -> Clip:
    """Render a given scene."""
    return Clip(
        frames=render_frames(scene, frames, width, height),
        waveform=render_audio(scene, frames / scene.fps, sample_rate),
        caption=caption(scene, caption_seed),
        truth=truth_of(scene, frames, width, height),
        scene=scene,
    )


def make_clip(seed: int, frames: int, width: int, height: int, sample_rate: int) -> Clip:
    """Scene, pictures, sound and caption from one seed; other sizes and lengths show the same scene."""
    return clip_of(sample_scene(seed), frames, width, height, sample_rate, caption_seed=seed)

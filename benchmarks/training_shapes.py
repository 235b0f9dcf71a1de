"""Shapes that the embedded model never saw: clips of them to train on, and held-out prompts that judge them.

A shape is one of the world's scenes of a circle, with another outline of the same area in its place, within
the same margins. It is judged as the world's own shapes are: by which outline its body resembles most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from training_clips import FRAMES, HEIGHT, WIDTH, Sample, held_out, rendered, scenes

from ltx2_core.training.world import OUTLINES, Body, Clip, Outline, Scene, caption
from ltx2_core.training.world.palette import rgb
from ltx2_core.training.world.scene import Extent


@dataclass(frozen=True)
class Shape:
    """A shape by its name in captions; ``outline`` and ``extent`` are those of radius 1."""

    name: str
    outline: Outline
    extent: Extent

    @property
    def outlines(self) -> Mapping[str, Outline]:
        """The shapes that a clip may show: those of the world, and this one."""
        return {**OUTLINES, self.name: self.outline}


POST_ASPECT = 2.5
"""Height of a post over its width."""
_POST = math.sqrt(math.pi / 4 / POST_ASPECT)
_DIAMOND = math.sqrt(math.pi / 2)
_RING, _HOLE = 1.25, 0.75
# Each has the area of the unit circle.


def _post(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs() - _POST, y.abs() - POST_ASPECT * _POST)


def _diamond(x: Tensor, y: Tensor) -> Tensor:
    return (x.abs() + y.abs() - _DIAMOND) / math.sqrt(2)


def _ring(x: Tensor, y: Tensor) -> Tensor:
    distance = (x.square() + y.square()).sqrt()
    return torch.maximum(distance - _RING, _HOLE - distance)


POST = Shape("post", _post, Extent(_POST, POST_ASPECT * _POST, POST_ASPECT * _POST))
DIAMOND = Shape("diamond", _diamond, Extent(_DIAMOND, _DIAMOND, _DIAMOND))
RING = Shape("ring", _ring, Extent(_RING, _RING, _RING))


@dataclass(frozen=True, kw_only=True)
class _Shaped(Body):
    """A body of a shape of its own, which stays within the margins by its own extent."""

    shape: Shape

    @property
    def extent(self) -> Extent:
        return self.shape.extent


def shaped(shape: Shape, first: int, count: int) -> Iterator[Sample]:
    """``count`` clips of one body of ``shape``, from seed ``first`` on."""
    for seed, scene in scenes(first, count, kind="circle", company=False):
        clip = replace(rendered(scene, seed), frames=frames_of(shape, scene))
        yield Sample(clip, shape_caption(shape, scene, seed))


def shape_prompts(shape: Shape, count: int) -> list[Clip]:
    """Held-out clips of one body of ``shape``: their captions and truths name it."""
    return [
        replace(
            clip,
            frames=frames_of(shape, clip.scene),
            caption=shape_caption(shape, clip.scene, clip.scene.seed),
            truth=replace(clip.truth, kinds=(shape.name,)),
        )
        for clip in held_out(count, kind="circle", company=False)
    ]


def shape_caption(shape: Shape, scene: Scene, seed: int) -> str:
    """The caption of a scene with the name of ``shape`` in place of that of its own."""
    return caption(scene, seed).replace(scene.actor.kind, shape.name, 1)


def frames_of(shape: Shape, scene: Scene) -> Tensor:
    """Draw a scene with ``shape`` in place of its body: (F, 3, H, W) in [-1, 1]."""
    centre, size = _Shaped(**vars(scene.actor), shape=shape).place(scene.times(FRAMES), WIDTH, HEIGHT)
    radius = (size * min(WIDTH, HEIGHT))[:, None, None]
    rows = torch.arange(HEIGHT)[:, None] + 0.5 - (centre[:, 1] * HEIGHT)[:, None, None]
    columns = torch.arange(WIDTH) + 0.5 - (centre[:, 0] * WIDTH)[:, None, None]
    # The distance in pixels, moved by a half, is the covered share of a pixel that an edge crosses.
    covered = (0.5 - shape.outline(columns / radius, rows / radius) * radius).clamp(0, 1)
    ground, colour = (torch.tensor(rgb(c)).view(1, 3, 1, 1) for c in (scene.background, scene.actor.colour))
    return torch.lerp(ground.expand(FRAMES, 3, HEIGHT, WIDTH), colour, covered[:, None].float())

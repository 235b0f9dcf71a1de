"""Makes an HDR clip from an SDR one with the HDR IC-LoRA, which generates its frames as log codes of light.

Letters: N frames, H W pixel rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from torch import Tensor

from ..conditioning.items import Conditioning
from ..loading import Component
from ..media.exr import open_exr
from ..media.hdr_space import HDR_SPACES, HdrCurve, light_of
from ..run.request import RequestOptions
from ..shapes import ClipPlan
from ..types import LatentState
from .conditioning import ReferenceFrames, describe_reference
from .dub import STAGES, reference_clip
from .edit import make_edit
from .footage import Footage
from .joints import cropped
from .protocols import Encoders, LongPipeline, SampledClip, StageInput
from .result import Edit

SETTINGS: RequestOptions = {
    "stages": STAGES,
    "distilled": True,
    "sampler": "euler",
    "stage2_sampler": "euler",
    "stage2_sigmas": (0.909375, 0.725, 0.0),
}
"""Fields that the request of every such run has, as in the official pipeline: name -> value."""

HDR: Final = "srgb-linear"
"""The usual colour space of the result."""

SILENCE: Final = (2, 48000)
"""Channels and sample rate of the audio of a source that has none."""


TILES: Final = 2
"""Tiles along time, height and width each in which the official pipeline samples the second stage."""


def to_hdr(
    pipeline: LongPipeline,
    prompt: str,
    source: Footage,
    *,
    hdr: str = HDR,
    high_quality: bool = False,
    whole_stage2: bool = False,
    **options: Any,
) -> Edit:
    """Make an HDR clip from ``source``, which is SDR, in the colour space ``hdr``, a key of ``HDR_SPACES``.

    The checkpoint must have distilled weights, and the pipeline exactly one LoRA, the HDR IC-LoRA, whose
    metadata state in which log codes (logarithms of light) it generates frames. Both sampling stages generate
    video alone, with the frames of the source as the reference; the frames of the result are decoded in
    float32, and its audio is that of the source. The result has the first 8k + 1 frames of the source.

    The second stage is sampled in 2 x 2 x 2 tiles that blend, as in the official pipeline, or with
    ``whole_stage2`` at once, which takes more memory. With ``high_quality`` the reference has each frame
    twice, twice as many frames are generated, and every second one is dropped: this takes twice the time, and
    the result flickers less. ``options`` are further fields of :class:`Request`, and ``sampled``,
    ``on_sampled``, ``on_step`` and ``stop`` of :func:`~ltx2_core.editing.edit.sampled_clip`.

    Raises ValueError for another number of LoRAs, for a LoRA that is not for HDR, for a source of EXR images,
    for models without the upsampler, and without the library OpenEXR.
    """
    plan = plan_hdr_of(pipeline, source, hdr, high_quality=high_quality, whole_stage2=whole_stage2)
    return make_edit(pipeline, plan, prompt, **{**options, **plan.settings, "hdr": hdr})


def plan_hdr_of(
    pipeline: LongPipeline,
    source: Footage,
    hdr: str,
    *,
    high_quality: bool = False,
    whole_stage2: bool = False,
) -> ToHdr:
    """Plan an HDR clip of ``source`` in the colour space ``hdr``, with the LoRA of ``pipeline``.

    ``high_quality`` and ``whole_stage2`` are those of :func:`to_hdr`. Raises what :func:`to_hdr` raises.
    """
    open_exr()
    loras = pipeline.loras
    if len(loras) != 1:
        raise ValueError(
            f"HDR takes exactly one LoRA, the HDR IC-LoRA, and {len(loras)} are named: give it alone, with "
            "loras (--lora FILE)"
        )
    curve = loras[0].hdr_curve
    if curve is None:
        raise ValueError(
            f"{loras[0].path} is no HDR IC-LoRA: its metadata has no hdr_transform, which says in which "
            "log codes it generates frames"
        )
    if source.hdr is not None:
        raise ValueError(f"the source is HDR already (hdr={source.hdr}): give an SDR video")
    # Known from headers, and needed only after the text is encoded.
    pipeline.networks.file(Component.UPSAMPLER)
    scale = loras[0].reference_downscale_factor
    clip = reference_clip(source, scale, numerics=pipeline.numerics)
    if high_quality:
        clip = replace(clip, frames=2 * clip.frames - 1)
    return ToHdr(
        source=source,
        clip=clip,
        scale=scale,
        curve=curve,
        hdr=hdr,
        high_quality=high_quality,
        whole_stage2=whole_stage2,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ToHdr:
    """A planned HDR clip of the first frames of ``source``, in the colour space ``hdr``.

    ``clip`` is the size and length of what the second sampling stage generates, in log codes of ``curve``. In
    each stage the frames of the source are encoded ``scale`` times smaller than the clip. With
    ``high_quality`` the clip has a frame more between every two, which is generated and left out.
    ``whole_stage2`` samples the second stage at once, and not in tiles.
    """

    source: Footage
    clip: ClipPlan
    scale: int
    curve: HdrCurve
    hdr: str
    high_quality: bool = False
    whole_stage2: bool = False
    regenerates_video = True

    @property
    def frame_count(self) -> int:
        """How many frames the result has."""
        return (self.clip.frames + 1) // 2 if self.high_quality else self.clip.frames

    @property
    def settings(self) -> RequestOptions:
        """The fields of the request that this plan decides."""
        return {**SETTINGS, "stage2_tiles": 1 if self.whole_stage2 else TILES}

    def conditioning(self, codecs: Encoders) -> Sequence[StageInput]:
        frames = self.source.part(0, self.frame_count).on_grid(self.clip, mirrored=True)
        return [VideoAlone(), ReferenceFrames(frames, self.scale, twice=self.high_quality)]

    def finish(self, sampled: SampledClip) -> Edit:
        """Make the result of what was ``sampled``: its frames without the padding, and the source's audio.

        Frames become codes of ACEScct. The audio is cut, or padded with silence, to their length.
        """
        width, height = self.source.result_size(self.clip)
        channels, rate = SILENCE
        if self.source.audio is not None:
            channels, rate = len(self.source.audio[0]), self.source.audio[1]
        track = self.source.track(channels, rate, self.frame_count / self.source.fps)
        own = {"high_quality": self.high_quality, "whole_stage2": self.whole_stage2}

        def frames() -> Iterator[Tensor]:
            chunks = cropped(sampled.frames(), (width, height))
            return self._recoded(every_second(chunks) if self.high_quality else chunks)

        return Edit(
            frame_chunks=frames,
            audio_chunks=lambda: iter((track,)),
            frame_count=self.frame_count,
            width=width,
            height=height,
            fps=self.source.fps,
            rate=rate,
            settings={**sampled.settings(), "to_hdr": own},
        )

    def _recoded(self, chunks: Iterator[Tensor]) -> Iterator[Tensor]:
        """Convert frames (N, 3, H, W) in [-1, 1] from log codes of ``curve`` to those of ACEScct.

        All writers of HDR clips take the latter.
        """
        space = HDR_SPACES["acescg"]
        for chunk in chunks:
            yield space.to_codes(light_of((chunk + 1) / 2, self.curve, space)) * 2 - 1

    def describe(self) -> str:
        clip = replace(self.clip, frames=self.frame_count)
        twice = f"; {self.clip.frames} frames are generated, of which every second one is dropped"
        return (
            f"{describe_reference(self.source, clip, self.scale)}; the "
            f"result is HDR ({self.hdr}), generated in {self.curve}, with the audio of the source"
            f"{twice if self.high_quality else ''}"
        )


def every_second(chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Leave out the 2nd, 4th, ... frame of a clip that arrives in consecutive ``chunks`` (N, 3, H, W)."""
    position = 0
    for chunk in chunks:
        chosen = chunk[position % 2 :: 2]
        position += len(chunk)
        if len(chosen):
            yield chosen


@dataclass(frozen=True)
class VideoAlone:
    """A conditioning item that removes the audio from a run, so that video alone is generated."""

    def at(self, codecs: Encoders, clip: ClipPlan) -> Conditioning:
        return self

    def apply(self, state: LatentState) -> LatentState:
        """Return a copy of ``state`` without its audio."""
        return replace(state, latent=replace(state.latent, audio=None), mask=replace(state.mask, audio=None))

    def describe(self) -> str:
        return "video alone"

"""Dubs a video: new speech in the voice of the source, with lips that follow it (Dub-It, an IC-LoRA).

Letters: N frames, H W pixel rows and columns, S samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..conditioning.items import Conditioning
from ..conditioning.reference import OwnAudio, ReferenceAudio
from ..loading import Component
from ..run.generation import as_long_as
from ..run.request import RequestOptions
from ..shapes import SPATIAL_SCALE, ClipPlan, Snap, frames_of, latent_frames_of, plan_clip
from ..types import Numerics
from .conditioning import ReferenceFrames, describe_reference
from .edit import make_edit
from .footage import Footage
from .joints import cropped
from .protocols import Encoders, LongPipeline, SampledClip, Waveform
from .result import Edit

STAGES: Final = 2

# The official pipeline samples dubs with plain Euler steps, whatever the generation of the checkpoint.
SETTINGS: RequestOptions = {
    "stages": STAGES,
    "distilled": True,
    "sampler": "euler",
    "stage2_sampler": "euler",
    "audio_stage": 1,
}
"""Fields that the request of every dub has: name -> value."""


def dub(pipeline: LongPipeline, prompt: str, source: Footage, **options: Any) -> Edit:
    """Dub ``source``: generate what ``prompt`` says in the voice of ``source``, with lips that follow it.

    The checkpoint must have distilled weights, and the pipeline exactly one LoRA, that of Dub-It. The frames
    of the source are the reference in both sampling stages, its audio only in the first, which generates the
    new audio. The result has the first 8k + 1 frames of the source. ``options`` are further fields of
    :class:`Request`, and ``sampled``, ``on_sampled``, ``on_step`` and ``stop`` of
    :func:`~ltx2_core.editing.edit.sampled_clip`.

    Raises ValueError for another number of LoRAs, for a source without audio, and for models without the
    audio encoder; with ``sampled`` (nothing is sampled) none of these is checked.
    """
    sampled = options.get("sampled")
    # The LoRA decides how the clip is sampled. What was sampled earlier only needs to be decoded.
    plan = (
        plan_dub_of(pipeline, source) if sampled is None else Dub(source=source, clip=sampled.clip, scale=1)
    )
    return make_edit(pipeline, plan, prompt, **{**options, **SETTINGS})


def plan_dub_of(pipeline: LongPipeline, source: Footage) -> Dub:
    """Plan the dub of ``source`` with the LoRA of ``pipeline``.

    The metadata of the LoRA state how many times smaller than the clip the frames of ``source`` are encoded
    as the reference. Raises ValueError as :func:`dub` does.
    """
    loras = pipeline.loras
    if len(loras) != 1:
        raise ValueError(
            f"dubbing takes exactly one LoRA, the IC-LoRA of Dub-It, and {len(loras)} are named: give it "
            "alone, with loras (--lora FILE)"
        )
    # Known from headers, and needed only after the text is encoded.
    pipeline.networks.file(Component.AUDIO_ENCODER)
    return plan_dub(source, loras[0].reference_downscale_factor, numerics=pipeline.numerics)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dub:
    """A planned dub of the first frames of ``source``, with its whole audio as the voice.

    ``clip`` is the size and length of what the second sampling stage generates: 8k + 1 frames. In each stage
    the frames of the source are encoded ``scale`` times smaller than the clip that is generated.
    """

    source: Footage
    clip: ClipPlan
    scale: int
    regenerates_video = True

    def conditioning(self, codecs: Encoders) -> Sequence[ReferenceFrames | DubbedAudio]:
        audio = self.source.audio
        assert audio is not None
        frames = self.source.part(0, self.clip.frames).on_grid(self.clip)
        return [ReferenceFrames(frames, self.scale), DubbedAudio(audio, self.clip)]

    def finish(self, sampled: SampledClip) -> Edit:
        """Make the result of what was ``sampled``: its frames without their padding, and its audio.

        The audio, which the first sampling stage generated, is cut or padded to the length of the frames.
        """
        width, height = self.source.result_size(self.clip)
        waveform, rate = sampled.audio()
        track = as_long_as(waveform, rate, self.clip.seconds)
        return Edit(
            frame_chunks=lambda: cropped(sampled.frames(), (width, height)),
            audio_chunks=lambda: iter((track,)),
            frame_count=self.clip.frames,
            width=width,
            height=height,
            fps=self.source.fps,
            rate=rate,
            settings={**sampled.settings(), "dub": {}},
        )

    def describe(self) -> str:
        return (
            f"{describe_reference(self.source, self.clip, self.scale)}; the new audio has the voice of the "
            "source"
        )


def plan_dub(source: Footage, scale: int, *, numerics: Numerics) -> Dub:
    """Plan a dub whose reference is encoded ``scale`` times smaller than the clip.

    The clip is that of :func:`reference_clip`. Raises ValueError for a source without audio.
    """
    if source.audio is None:
        raise ValueError(
            "source: the video has no audio: a dub takes the voice from it; give a video with audio"
        )
    clip = reference_clip(source, scale, numerics=numerics)
    return Dub(source=source, clip=clip, scale=scale)


def reference_clip(source: Footage, scale: int, *, numerics: Numerics) -> ClipPlan:
    """Plan a clip of two sampling stages whose reference is ``source``, encoded ``scale`` times smaller.

    The clip has the first 8k + 1 frames of ``source``. Its width and height in pixels are multiples of 64 x
    ``scale`` (128 for a scale of 2), so that the first sampling stage, at half the size, still has whole
    latent cells of 32 pixels in a reference that is ``scale`` times smaller. They are the source's width and
    height, rounded up to such a multiple if the ``fit`` of the source is "own", else to the nearest one, and
    at least one multiple. ``numerics`` is the implementation whose rounding is followed, the official one or
    ComfyUI's.
    """
    multiple = SPATIAL_SCALE * STAGES * scale
    # Rounded up, because a source at its own size is padded and never cut.
    rounded = math.ceil if source.fit == "own" else round
    width, height = (max(1, rounded(size / multiple)) * multiple for size in source.size)
    frames = frames_of(latent_frames_of(len(source.frames)))
    return plan_clip(
        width, height, frames=frames, fps=source.fps, snap=Snap.ERROR, stages=STAGES, numerics=numerics
    )


@dataclass(frozen=True, eq=False)
class DubbedAudio:
    """A conditioning item for the audio of a dub, in both sampling stages.

    In the first stage ``audio``, that of the source, is the reference of the audio that is generated. In the
    second stage the audio of the first stage is preserved, and serves as its own reference. ``last`` is the
    size and length of the second stage's clip, by which that stage is recognised.
    """

    audio: Waveform
    last: ClipPlan

    def at(self, codecs: Encoders, clip: ClipPlan) -> Conditioning:
        if (clip.width, clip.height) == (self.last.width, self.last.height):
            return OwnAudio()
        return ReferenceAudio(latent=codecs.encode_audio(*self.audio), follows=True)

    def describe(self) -> str:
        return f"{self.audio[0].shape[1] / self.audio[1]:.2f} s of audio of the source as the reference"

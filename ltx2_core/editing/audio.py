"""Generates audio for a video whose frames are preserved, or audio without any video.

Letters: N frames, C channels, S samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional

from ..media import to_signed
from ..run.request import Request, RequestOptions
from ..shapes import ClipPlan, frames_of, latent_frames_of
from ..types import Numerics
from .arguments import check_source, checked
from .audio_windows import WINDOW_FRAMES, audio_windows, sampled_audio
from .conditioning import WholeVideo, check_audio
from .edit import finished, make_edit, sampled_clip
from .footage import Footage
from .protocols import Encoders, LongPipeline, Pipeline, SampledClip, StageInput, Waveform
from .result import Edit
from .windows import Places

# Lossy codecs overshoot their input by a fraction of a dB, which clips at full scale.
CEILING_DB = -1.0
"""The loudest sample of generated audio, in dB of full scale."""


def add_audio(
    pipeline: LongPipeline,
    prompt: str,
    source: Footage,
    *,
    ceiling_db: float = CEILING_DB,
    window_frames: int = WINDOW_FRAMES,
    folder: str | Path | None = None,
    spare: str | Path | None = None,
    **options: Any,
) -> Edit:
    """Generate audio for a video; the result has the source's own frames, and audio of the same length.

    The model is conditioned on the first 8k + 1 frames of the source, for the largest k that fits. Frames
    with more pixels than the default size of the checkpoint are scaled down for this. A source of more than
    ``window_frames`` (8k + 1) frames is sampled in windows; each continues the last second of audio of the
    window before. Finished windows are saved below ``folder``, or below ``spare`` if the disk of ``folder``
    is full (None is no second folder); another call with the same arguments reuses them. With ``folder`` None
    nothing is saved. Audio whose peak is above ``ceiling_db`` (dB of full scale) is scaled down as a whole.
    ``options`` are further fields of :class:`Request`, and ``sampled``, ``on_sampled``, ``on_step`` and
    ``stop`` of :func:`~ltx2_core.editing.edit.sampled_clip`.

    Raises ValueError unless ``window_frames`` is 8k + 1 and at least 17, and for a ``ceiling_db`` above 0.
    """
    own = checked(ceiling_db=ceiling_db, window_frames=window_frames)
    window_frames = own["window_frames"]
    plan = plan_audio_of(pipeline, check_source(source), own["ceiling_db"])
    # The frames stay as they are, so a second stage would have nothing to refine.
    options = {**options, "stages": 1}
    windows = audio_windows(plan.clip, window_frames)
    if len(windows) == 1:
        return make_edit(pipeline, plan, prompt, **options)
    places = None
    if folder is not None:
        places = Places(folder=Path(folder), spare=None if spare is None else Path(spare))
    sampled = sampled_audio(pipeline, prompt, source, windows, plan.clip, places=places, **options)
    return finished(plan, sampled)


def plan_audio_of(pipeline: Pipeline, source: Footage, ceiling_db: float = CEILING_DB) -> AddedAudio:
    """Plan the run that generates audio for ``source`` with the checkpoint of ``pipeline``.

    Frames with more pixels than the default size of that checkpoint are scaled down before the model is
    conditioned on them. Audio with a higher peak than ``ceiling_db`` (dB of full scale) will be scaled down.
    Raises ValueError for a model without audio.
    """
    check_audio(pipeline, "audio is to be generated for a clip")
    usual = pipeline.resolve(Request(prompt=""))
    assert usual.width is not None
    assert usual.height is not None
    return plan_audio(source, ceiling_db, numerics=pipeline.numerics, max_pixels=usual.width * usual.height)


@dataclass(frozen=True, kw_only=True, eq=False)
class AddedAudio:
    """A planned run that generates audio for ``source``, whose frames do not change.

    ``clip`` is the size and length of the run: the first 8k + 1 frames of the source, with the largest k that
    fits. Audio with a higher peak than ``ceiling_db`` (dB of full scale) is scaled down.
    """

    source: Footage
    clip: ClipPlan
    ceiling_db: float
    regenerates_video = False

    def conditioning(self, codecs: Encoders) -> list[StageInput]:
        return [WholeVideo(self.source.part(0, self.clip.frames))]

    def finish(self, sampled: SampledClip) -> Edit:
        """Join the source's frames with the sampled audio, cut or padded with silence to their length.

        Audio with a higher peak than ``ceiling_db`` is scaled down. Raises ValueError for a ceiling above 0.
        """
        source = self.source
        track, rate = fitted_audio(sampled.audio(), source.seconds, self.ceiling_db)
        return Edit(
            frame_chunks=lambda: map(to_signed, source.chunks()),
            audio_chunks=lambda: iter((track,)),
            frame_count=len(source.frames),
            width=source.size[0],
            height=source.size[1],
            fps=source.fps,
            rate=rate,
            unchanged=source.file,
            settings={**sampled.settings(), "add_audio": {"ceiling_db": self.ceiling_db}},
        )

    def describe(self) -> str:
        return (
            f"audio for {self.source.seconds:.2f} s; the model is conditioned on {self.clip.frames} of "
            f"{len(self.source.frames)} frames"
        )


def plan_audio(
    source: Footage,
    ceiling_db: float = CEILING_DB,
    *,
    numerics: Numerics,
    max_pixels: int | None = None,
) -> AddedAudio:
    """Plan the run that generates audio for ``source``.

    The model is conditioned on the source's frames, scaled down to at most ``max_pixels`` pixels each; None
    sets no limit. Audio with a higher peak than ``ceiling_db`` (dB of full scale) will be scaled down.
    ``numerics`` is the implementation whose rounding is followed, the official one or ComfyUI's.
    """
    usable = frames_of(latent_frames_of(len(source.frames)))
    return AddedAudio(
        source=source,
        clip=source.plan(usable, numerics=numerics, max_pixels=max_pixels),
        ceiling_db=ceiling_db,
    )


def text_to_audio(
    pipeline: Pipeline,
    prompt: str,
    *,
    seconds: float,
    ceiling_db: float = CEILING_DB,
    **options: Any,
) -> Waveform:
    """Generate audio without a video; returns (waveform (2, S), rate in Hz), exactly ``seconds`` long.

    Audio whose peak is above ``ceiling_db`` (dB of full scale) is scaled down. ``options`` are further fields
    of :class:`Request`, and ``sampled``, ``on_sampled``, ``on_step`` and ``stop`` of
    :func:`~ltx2_core.editing.edit.sampled_clip`. Raises ValueError for a ceiling above 0.
    """
    own = checked(seconds=seconds, ceiling_db=ceiling_db)
    length = audio_length(pipeline, own["seconds"], options)
    result = sampled_clip(pipeline, prompt, tuple, **{**options, **length})
    waveform, rate = result.audio()
    return limit_loudness(waveform[:, : round(own["seconds"] * rate)], own["ceiling_db"]), rate


def audio_length(pipeline: Pipeline, seconds: float, options: Mapping[str, Any]) -> RequestOptions:
    """The fields ``stages``, ``video`` and ``seconds`` of a request that generates audio alone.

    The length is ``seconds`` and 8 frames more, so that the audio is not too short after lengths are rounded.
    ``options`` are the other fields of the request, of which only ``fps`` is read.
    """
    # A latent frame more than needed, so that the clip is not shorter than the audio after rounding.
    fps = pipeline.resolve(Request(prompt="", fps=options.get("fps"))).fps
    return {"stages": 1, "video": False, "seconds": seconds + 8 / fps}


def fitted_audio(audio: Waveform, seconds: float, ceiling_db: float) -> Waveform:
    """Cut audio, or pad it with silence, to ``seconds``, and scale it down if it is too loud.

    ``audio`` and the result are (waveform (C, S), rate in Hz). The whole waveform is scaled down if its peak
    is above ``ceiling_db`` (dB of full scale). Raises ValueError for a ceiling above 0.
    """
    waveform, rate = limit_loudness(audio[0], ceiling_db), audio[1]
    return functional.pad(waveform, (0, round(seconds * rate) - waveform.shape[1])), rate


def limit_loudness(waveform: Tensor, ceiling_db: float = CEILING_DB) -> Tensor:
    """Scale a waveform (C, S) down as a whole if its peak is above ``ceiling_db`` dB of full scale.

    The peak of the result is then ``ceiling_db``. Raises ValueError for a ceiling above 0 dB, which no file
    can hold.
    """
    if not (math.isfinite(ceiling_db) and ceiling_db <= 0):
        raise ValueError(f"ceiling_db={ceiling_db} must be 0 or below: 0 is the loudest that a file holds")
    ceiling, peak = 10 ** (ceiling_db / 20), float(waveform.abs().max()) if waveform.numel() else 0.0
    return waveform * (ceiling / peak) if peak > ceiling else waveform

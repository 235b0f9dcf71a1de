"""Sound for a video that stays as it is, and sound without any video."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import functional

from ..media import to_signed
from ..run.generation import Generation
from ..run.request import Request
from ..shapes import frames_of, latent_frames_of, plan_clip
from .conditioning import WholeVideo
from .footage import Edit, Footage
from .sampled import OnSampled, sampled_clip

if TYPE_CHECKING:
    from ..run.pipeline import LTX2Pipeline, OnStep, Stop

CEILING_DB = -1.0
"""The loudest sample of made sound, in dB of full scale."""


def add_audio(
    pipeline: LTX2Pipeline,
    prompt: str,
    source: Footage,
    *,
    ceiling_db: float = CEILING_DB,
    on_step: OnStep | None = None,
    stop: Stop | None = None,
    sampled: Generation | None = None,
    on_sampled: OnSampled | None = None,
    **options: Any,
) -> Edit:
    """The source's pictures, as they are and never decoded, with sound made for them.

    The model sees the last 8k + 1 or fewer of them that the grid holds; the sound is as long as the pictures.
    It is made quieter where a sample would pass ``ceiling_db``. ``sampled`` and ``on_sampled`` are those of
    :func:`extend`.
    """
    usable = frames_of(latent_frames_of(len(source.frames)))
    clip = plan_clip(*source.size, frames=usable, fps=source.fps, numerics=pipeline.numerics)
    size = {"width": clip.width, "height": clip.height, "num_frames": usable, "stages": 1}
    request = Request(prompt=prompt, **{**options, **size}, fps=source.fps)
    made = sampled_clip(
        pipeline,
        request,
        lambda: [WholeVideo(source.frames[:usable])],
        sampled=sampled,
        on_sampled=on_sampled,
        on_step=on_step,
        stop=stop,
    )
    track, rate = fitted_audio(made.audio(), source.seconds, ceiling_db)
    return Edit(
        pictures=lambda: iter(to_signed(chunk) for chunk in source.frames.split(32)),
        sounds=lambda: iter((track,)),
        frame_count=len(source.frames),
        width=source.size[0],
        height=source.size[1],
        fps=source.fps,
        rate=rate,
        settings={**made.settings(), "add_audio": {"ceiling_db": ceiling_db}},
    )


def text_to_audio(
    pipeline: LTX2Pipeline,
    prompt: str,
    *,
    seconds: float,
    ceiling_db: float = CEILING_DB,
    on_step: OnStep | None = None,
    stop: Stop | None = None,
    sampled: Generation | None = None,
    on_sampled: OnSampled | None = None,
    **options: Any,
) -> tuple[Tensor, int]:
    """Sound alone: (waveform (2, S), rate in Hz), exactly ``seconds`` long.

    ``sampled`` and ``on_sampled`` are those of :func:`extend`.
    """
    fps = options.pop("fps", 24.0)
    request = Request(
        prompt=prompt, **{**options, "stages": 1, "video": False, "seconds": seconds + 8 / fps}, fps=fps
    )
    made = sampled_clip(
        pipeline,
        request,
        tuple,
        sampled=sampled,
        on_sampled=on_sampled,
        on_step=on_step,
        stop=stop,
    )
    waveform, rate = made.audio()
    return limit_loudness(waveform[:, : round(seconds * rate)], ceiling_db), rate


def fitted_audio(sound: tuple[Tensor, int], seconds: float, ceiling_db: float) -> tuple[Tensor, int]:
    """A sound ((C, S), Hz), limited, and exactly ``seconds`` long: cut, or followed by silence."""
    waveform, rate = limit_loudness(sound[0], ceiling_db), sound[1]
    return functional.pad(waveform, (0, round(seconds * rate) - waveform.shape[1])), rate


def limit_loudness(waveform: Tensor, ceiling_db: float = CEILING_DB) -> Tensor:
    """The sound, as a whole quieter if its loudest sample is above ``ceiling_db`` dB of full scale.

    Raises ValueError for a ceiling above 0 dB, which no file can hold.
    """
    if not (math.isfinite(ceiling_db) and ceiling_db <= 0):
        raise ValueError(f"ceiling_db={ceiling_db} must be 0 or below: 0 is the loudest that a file holds")
    ceiling, peak = 10 ** (ceiling_db / 20), float(waveform.abs().max()) if waveform.numel() else 0.0
    return waveform * (ceiling / peak) if peak > ceiling else waveform

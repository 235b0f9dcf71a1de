"""Go on with a clip: its last pictures and their sound are kept, and both continue.

Letters: N pictures, H W pixel rows and columns, S samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..audio import resample
from ..conditioning.patchify import audio_positions
from ..media import to_signed
from ..run.generation import Generation
from ..run.request import Request
from ..shapes import ClipPlan, frames_of, latent_frames_of
from ..types import Numerics
from .conditioning import FirstAudio, FirstFrames, encoded_audio
from .footage import Edit, Footage, cross_fade, take
from .sampled import OnSampled, sampled_clip

if TYPE_CHECKING:
    from ..run.pipeline import LTX2Pipeline, OnStep, Stop

KEEP_FRAMES = 25
FADE_FRAMES = 8
FADE_S = 0.05


def extend(
    pipeline: LTX2Pipeline,
    prompt: str,
    source: Footage,
    *,
    seconds: float | None = None,
    frames: int | None = None,
    keep_frames: int = KEEP_FRAMES,
    fade_frames: int = FADE_FRAMES,
    on_step: OnStep | None = None,
    stop: Stop | None = None,
    sampled: Generation | None = None,
    on_sampled: OnSampled | None = None,
    **options: Any,
) -> Edit:
    """The source and, after it, exactly ``frames`` new pictures (or ``seconds``) with their sound.

    The last ``keep_frames`` (8k + 1) pictures and the sound under them are what the model goes on from.
    The source comes back as it was but for the joint: its last ``fade_frames`` pictures and 50 ms of sound go
    over into the new ones. A source whose size is off the grid is cut around its centre. ``options`` are the
    further fields of :class:`Request`. ``on_sampled`` may keep what was sampled (``kept.save_latents``);
    ``sampled`` is what an earlier call with the same arguments kept (``kept.resume``), and is not made again.

    Raises ValueError for a length that is not given once, or if the source is shorter than what to keep.
    """
    if (seconds is None) == (frames is None):
        raise ValueError(f"give the new length once: frames={frames}, seconds={seconds}")
    new = round(seconds * source.fps) if seconds is not None else frames
    assert new is not None
    clip = plan_extension(
        source, keep_frames, new, stages=options.get("stages", 1), numerics=pipeline.numerics
    )
    request = Request(
        prompt=prompt,
        **{**options, "width": clip.width, "height": clip.height, "num_frames": clip.frames},
        fps=source.fps,
    )
    kept_s = keep_frames / source.fps

    def given() -> list[Any]:
        first: list[Any] = [FirstFrames(source.frames[-keep_frames:])]
        if source.sound is not None:
            latents = latents_within(clip, kept_s)
            first.append(FirstAudio(encoded_audio(pipeline, last_audio(source, kept_s), latents)))
        return first

    made = sampled_clip(
        pipeline,
        request,
        given,
        sampled=sampled,
        on_sampled=on_sampled,
        on_step=on_step,
        stop=stop,
    )
    whole = source.fitted(made.clip)
    total = len(source.frames) + new
    joined, rate = joined_audio(whole, made.audio(), kept_s, total / source.fps)
    return Edit(
        pictures=lambda: joined_frames(whole, made.frames(), keep_frames, new, fade_frames),
        sounds=lambda: iter((joined,)),
        frame_count=total,
        width=made.clip.width,
        height=made.clip.height,
        fps=source.fps,
        rate=rate,
        settings={**made.settings(), "extend": {"keep_frames": keep_frames, "new_frames": new}},
    )


def plan_extension(
    source: Footage, keep_frames: int, new_frames: int, *, stages: int, numerics: Numerics
) -> ClipPlan:
    """The plan of the run that begins with what is kept.

    Raises ValueError for frames that cannot be kept, and if nothing is to be made.
    """
    if new_frames < 1:
        raise ValueError(f"{new_frames} new frames are nothing to make: ask for at least one")
    if keep_frames != frames_of(latent_frames_of(keep_frames)) or not 1 <= keep_frames <= len(source.frames):
        raise ValueError(
            f"keep_frames={keep_frames} must be 8k + 1, at least 1, and at most the {len(source.frames)} "
            "frames of the source"
        )
    return source.plan(keep_frames + new_frames, stages=stages, numerics=numerics)


def latents_within(clip: ClipPlan, seconds: float) -> int:
    """Audio latents of a clip that end within its first ``seconds``."""
    return int((audio_positions(clip.audio_latents)[0, 0, :, 1] <= seconds + 1e-5).sum())


def last_audio(source: Footage, seconds: float) -> tuple[Tensor, int]:
    """The sound ((C, S), Hz) under the last ``seconds`` of the pictures of a source that has one."""
    assert source.sound is not None
    waveform, rate = source.sound
    track = source.track(waveform.shape[0], rate, source.seconds)
    return track[:, track.shape[1] - round(seconds * rate) :], rate


def track_rate(source: Footage, sound: tuple[Tensor, int]) -> int:
    """The rate of the source's sound, which is kept to the sample, or else that of the new one."""
    return sound[1] if source.sound is None else source.sound[1]


def joined_frames(
    source: Footage, made: Iterator[Tensor], keep: int, new: int, fade: int
) -> Iterator[Tensor]:
    """The source and ``new`` pictures after it, in chunks (N, 3, H, W) in [-1, 1].

    ``made`` are chunks of the same kind whose first ``keep`` pictures are the last ones of the source. The
    last ``fade`` of the source, at most ``keep``, go over into them.
    """
    fade = min(fade, keep)
    before, tail = len(source.frames) - fade, to_signed(source.frames[len(source.frames) - fade :])
    for start in range(0, before, 32):
        yield to_signed(source.frames[start : min(start + 32, before)])
    position = 0
    for chunk in take(made, keep - fade, fade + new):
        mixed = max(0, min(fade - position, len(chunk)))
        if mixed:
            weight = (torch.arange(position, position + mixed) + 1) / (fade + 1)
            old = tail[position : position + mixed]
            chunk = torch.cat((torch.lerp(old, chunk[:mixed], weight.view(-1, 1, 1, 1)), chunk[mixed:]))
        position += len(chunk)
        yield chunk


def joined_audio(
    source: Footage, made: tuple[Tensor, int], kept_s: float, total_s: float
) -> tuple[Tensor, int]:
    """((C, S), Hz): the source's sound to the sample until 50 ms before the joint, then the new one.

    ``made`` ((C, S), Hz) begins with the last ``kept_s`` seconds of the source.
    """
    (waveform, own), rate = made, track_rate(source, made)
    waveform = waveform if own == rate else resample(waveform, own, rate)
    samples, joint = round(total_s * rate), round(source.seconds * rate)
    channels = max(waveform.shape[0], 1 if source.sound is None else source.sound[0].shape[0])
    before = torch.zeros(channels, samples)
    before[:, :joint] = source.track(channels, rate, source.seconds)
    shift = joint - round(kept_s * rate)
    after = torch.zeros(channels, samples)
    part = waveform[:, : samples - shift]
    after[:, shift : shift + part.shape[1]] = part
    return cross_fade(before, after, joint, round(FADE_S * rate)), rate

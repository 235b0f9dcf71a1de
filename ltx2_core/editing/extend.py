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
from ..generation import Generation
from ..media import to_signed
from ..request import Request
from ..shapes import Snap, frames_of, latent_frames_of, plan_clip
from .footage import Edit, Footage, cross_fade, take
from .given import FirstFrames, FirstSound, encoded_sound

if TYPE_CHECKING:
    from ..pipeline import LTX2Pipeline, OnStep, Stop

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
    **options: Any,
) -> Edit:
    """The source and, after it, exactly ``frames`` new pictures (or ``seconds``) with their sound.

    The last ``keep_frames`` (8k + 1) pictures and the sound under them are what the model goes on from.
    The source comes back as it was but for the joint: its last ``fade_frames`` pictures and 50 ms of sound go
    over into the new ones. A source whose size is off the grid is cut around its centre. ``options`` are the
    further fields of :class:`Request`.

    Raises ValueError for a length that is not given once, or if the source is shorter than what to keep.
    """
    if (seconds is None) == (frames is None):
        raise ValueError(f"give the new length once: frames={frames}, seconds={seconds}")
    new = round(seconds * source.fps) if seconds is not None else frames
    assert new is not None
    if new < 1:
        raise ValueError(f"{new} new frames are nothing to make: ask for at least one")
    if keep_frames != frames_of(latent_frames_of(keep_frames)) or not 1 <= keep_frames <= len(source.frames):
        raise ValueError(
            f"keep_frames={keep_frames} must be 8k + 1, at least 1, and at most the {len(source.frames)} "
            "frames of the source"
        )
    stages = options.get("stages", 1)
    clip = plan_clip(
        *source.size,
        frames=keep_frames + new,
        fps=source.fps,
        snap=Snap.CEIL,
        numerics=pipeline.numerics,
        stages=stages,
    )
    size = plan_clip(*source.size, frames=clip.frames, fps=source.fps, stages=stages)
    request = Request(
        prompt=prompt,
        **{**options, "width": size.width, "height": size.height, "num_frames": clip.frames},
        fps=source.fps,
    )
    kept_s = keep_frames / source.fps
    given: list[Any] = [FirstFrames(source.frames[-keep_frames:])]
    if source.sound is not None:
        ends = audio_positions(clip.audio_latents)[0, 0, :, 1]
        latents = int((ends <= kept_s + 1e-5).sum())
        track = source.track(source.sound[0].shape[0], source.sound[1], source.seconds)
        first = track.shape[1] - round(kept_s * source.sound[1])
        sound = track[:, first:], source.sound[1]
        given.append(FirstSound(encoded_sound(pipeline, sound, latents)))
    made = pipeline(request, given=given, on_step=on_step, stop=stop)
    whole = source.fitted(made.clip)
    total = len(source.frames) + new
    rate = pipeline_rate(source, made)
    joined = _joined_sound(whole, made, kept_s, total / source.fps, rate)
    return Edit(
        pictures=lambda: _joined_pictures(whole, made, keep_frames, new, min(fade_frames, keep_frames)),
        sounds=lambda: iter((joined,)),
        frame_count=total,
        width=made.clip.width,
        height=made.clip.height,
        fps=source.fps,
        rate=rate,
        settings={**made.settings(), "extend": {"keep_frames": keep_frames, "new_frames": new}},
    )


def pipeline_rate(source: Footage, made: Generation) -> int:
    """The rate of the source's sound, which is kept to the sample, or else that of the vocoder."""
    return made.audio()[1] if source.sound is None else source.sound[1]


def _joined_pictures(source: Footage, made: Generation, keep: int, new: int, fade: int) -> Iterator[Tensor]:
    before, tail = len(source.frames) - fade, to_signed(source.frames[len(source.frames) - fade :])
    for start in range(0, before, 32):
        yield to_signed(source.frames[start : min(start + 32, before)])
    position = 0
    for chunk in take(made.frames(), keep - fade, fade + new):
        mixed = max(0, min(fade - position, len(chunk)))
        if mixed:
            weight = (torch.arange(position, position + mixed) + 1) / (fade + 1)
            old = tail[position : position + mixed]
            chunk = torch.cat((torch.lerp(old, chunk[:mixed], weight.view(-1, 1, 1, 1)), chunk[mixed:]))
        position += len(chunk)
        yield chunk


def _joined_sound(source: Footage, made: Generation, kept_s: float, total_s: float, rate: int) -> Tensor:
    """(C, S): the source's sound to the sample until 50 ms before the joint, then the new one."""
    waveform, own = made.audio()
    waveform = waveform if own == rate else resample(waveform, own, rate)
    samples, joint = round(total_s * rate), round(source.seconds * rate)
    channels = max(waveform.shape[0], 1 if source.sound is None else source.sound[0].shape[0])
    before = torch.zeros(channels, samples)
    before[:, :joint] = source.track(channels, rate, source.seconds)
    shift = joint - round(kept_s * rate)
    after = torch.zeros(channels, samples)
    part = waveform[:, : samples - shift]
    after[:, shift : shift + part.shape[1]] = part
    return cross_fade(before, after, joint, round(FADE_S * rate))

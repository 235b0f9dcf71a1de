"""Extends a clip: the model continues from its last frames and their audio, which are preserved.

Letters: N frames, H W pixel rows and columns, C channels, S samples.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from ..audio import resample
from ..conditioning.patchify import audio_positions
from ..media import to_signed
from ..media.recut import Recut
from ..memory.source_stage import CHUNK_FRAMES
from ..run.audio_regions import FADE_S
from ..shapes import ClipPlan, frames_of, latent_frames_of
from ..types import Numerics
from .arguments import check_source, checked
from .conditioning import FirstFrames, first_audio
from .edit import make_edit
from .footage import Footage
from .joints import cropped, cross_fade, take
from .protocols import Encoders, Pipeline, SampledClip, StageInput, Waveform
from .result import Edit

log = logging.getLogger(__name__)

# About a second of motion and voice to continue from.
KEEP_FRAMES: Final = 25
# The frames of one latent frame.
FADE_FRAMES = 8


def extend(
    pipeline: Pipeline,
    prompt: str,
    source: Footage,
    *,
    seconds: float | None = None,
    frames: int | None = None,
    keep_frames: int | None = None,
    fade_frames: int = FADE_FRAMES,
    exact_outside: bool = False,
    **options: Any,
) -> Edit:
    """Return the source, followed by exactly ``frames`` (or ``seconds`` of) new frames with audio.

    Seconds become the nearest whole number of frames, halves upwards: 0.5 s at 25 fps are 13. The model
    continues from the last ``keep_frames`` (8k + 1) frames and their audio; None is 25, or as many as a
    shorter source has. The result has the size of the source, or for a ``fit`` other than "own" that of the
    sampling run. It begins with the source's decoded frames and samples, of which the last ``fade_frames``
    frames (at most ``keep_frames``) and the last 50 ms fade into the sampled ones. With ``exact_outside`` the
    saved file has the encoded packets of the source's own file before the GOP (group of pictures) in which
    this fade begins, and only the rest is encoded.

    ``options`` are those of :func:`~ltx2_core.editing.edit.make_edit`: how to report, stop and resume the
    sampling, and further fields of :class:`Request`.

    Raises ValueError unless exactly one of ``frames`` and ``seconds`` is set, if there is no new frame, if
    ``keep_frames`` is not 8k + 1 or the source is shorter, and for packets that cannot be copied; TypeError
    for a value of another type.
    """
    own = checked(seconds=seconds, frames=frames, keep_frames=keep_frames, fade_frames=fade_frames)
    check_source(source)
    checked(exact_outside=exact_outside)
    plan = plan_extension(
        source,
        own["keep_frames"],
        new_length(source, seconds=own["seconds"], frames=own["frames"]),
        own["fade_frames"],
        stages=options.get("stages", 1),
        numerics=pipeline.numerics,
    )
    recut = plan.recut() if exact_outside else None
    return replace(make_edit(pipeline, plan, prompt, **options), recut=recut)


def frames_of_seconds(seconds: float, fps: float) -> int:
    """Round seconds to the nearest whole number of frames, halves upwards.

    Raises ValueError for infinity or NaN.
    """
    if not math.isfinite(seconds):
        raise ValueError(f"the new length must be a number of seconds; got {seconds}")
    # A product such as 0.7 * 15 may lie a rounding error below the half that it means.
    return math.floor(seconds * fps + 0.5 + 1e-9)


def new_length(source: Footage, *, seconds: float | None, frames: int | None) -> int:
    """Return how many frames to add: ``frames``, or as many as ``seconds`` are at the source's frame rate.

    Raises ValueError unless exactly one of both is set (not None).
    """
    if (seconds is None) == (frames is None):
        raise ValueError(
            "say once how much is added, with seconds (--seconds) or frames (--frames); "
            + ("neither is set" if seconds is None else f"got {seconds:g} seconds and {frames} frames")
        )
    if seconds is not None:
        new = frames_of_seconds(seconds, source.fps)
        if new < 1:
            raise ValueError(f"seconds={seconds:g} is less than half a frame at {source.fps:g} fps: add more")
        return new
    assert frames is not None
    return frames


@dataclass(frozen=True, kw_only=True, eq=False)
class Extension:
    """A planned extension: a run that begins with the last ``keep_frames`` frames of the source.

    ``new_frames`` frames follow them; ``clip`` is the size and length of the run, which may have more frames,
    since their number must be 8k + 1. The last ``fade_frames`` frames of the source fade into the sampled
    ones.
    """

    source: Footage
    clip: ClipPlan
    keep_frames: int
    new_frames: int
    fade_frames: int
    regenerates_video = True

    @property
    def keep_s(self) -> float:
        """The duration in seconds of the preserved frames with which the run begins."""
        return self.keep_frames / self.source.fps

    @property
    def frame_count(self) -> int:
        """The number of frames of the finished clip: those of the source and the new ones."""
        return len(self.source.frames) + self.new_frames

    @property
    def audio_latents(self) -> int:
        """How many audio latents of the run end before the preserved frames end, or together with them."""
        ends = audio_positions(self.clip.audio_latents)[0, 0, :, 1]
        # The tolerance covers the rounding of positions that end with the last preserved frame.
        return int((ends <= self.keep_s + 1e-5).sum())

    def conditioning(self, codecs: Encoders) -> list[StageInput]:
        # 8k + 1 frames, because the run encodes them as the beginning of a clip.
        items: list[StageInput] = [FirstFrames(self.source.on_grid(self.clip).part(-self.keep_frames))]
        if codecs.has_audio and self.source.audio is not None and self.audio_latents:
            items.append(first_audio(codecs, last_audio(self.source, self.keep_s), self.audio_latents))
        return items

    def finish(self, sampled: SampledClip) -> Edit:
        """Append the new frames and audio of the sampled clip to the source, with fades where they meet."""
        source, keep, new = self.source.beside(sampled.clip), self.keep_frames, self.new_frames
        total_s = self.frame_count / source.fps
        track, rate = joined_audio(source, sampled.audio(), self.keep_s, total_s)
        return Edit(
            frame_chunks=lambda: joined_frames(
                source, cropped(sampled.frames(), source.size), keep, new, self.fade_frames
            ),
            audio_chunks=lambda: iter((track,)),
            frame_count=self.frame_count,
            width=source.size[0],
            height=source.size[1],
            fps=source.fps,
            rate=rate,
            settings={**sampled.settings(), "extend": self.settings()},
        )

    def recut(self) -> Recut:
        """Plan a file that copies the packets of the source before the GOP in which the fade begins.


        Raises ValueError, with the reason, if they cannot be copied.
        """
        # Frames of the fade are mixtures and have to be encoded, too.
        joint = len(self.source.frames) - min(self.fade_frames, self.keep_frames)
        return self.source.recut([(joint, self.frame_count)], self.frame_count)

    def settings(self) -> dict[str, int]:
        """The arguments of the extension as JSON values; ``fade_frames`` only if it is not the default."""
        values = {"keep_frames": self.keep_frames, "new_frames": self.new_frames}
        # Files of the default fade stay as they were.
        return values if self.fade_frames == FADE_FRAMES else {**values, "fade_frames": self.fade_frames}

    def describe(self, *, with_audio: bool = True) -> str:
        """The text for reports; without ``with_audio`` that of a model without audio."""
        audio = f" and {self.audio_latents} audio latents" if with_audio else ""
        return (
            f"{self.keep_frames} frames ({self.keep_s:.2f} s){audio} are "
            f"preserved in a run of {self.clip.frames} frames; the finished clip has {self.frame_count} "
            f"frames ({self.frame_count / self.source.fps:.2f} s)"
        )


def plan_extension(
    source: Footage,
    keep_frames: int | None,
    new_frames: int,
    fade_frames: int = FADE_FRAMES,
    *,
    stages: int,
    numerics: Numerics,
) -> Extension:
    """Plan the run that begins with the last ``keep_frames`` frames of the source and adds ``new_frames``.

    None for ``keep_frames`` is 25, or the largest 8k + 1 that a shorter source has, which is logged. The last
    ``fade_frames`` frames of the source fade into the sampled ones. ``stages`` is the number of sampling
    stages (1 or 2), which decides the sizes that can be generated; ``numerics`` is the implementation whose
    rounding is followed, the official one or ComfyUI's. Raises ValueError if ``keep_frames`` is not 8k + 1,
    if the source has fewer frames than that, and if there are no new frames.
    """
    if new_frames < 1:
        raise ValueError(f"an extension has at least one new frame; got {new_frames}")
    if keep_frames is None:
        keep_frames = _usual_keep_frames(len(source.frames))
    if keep_frames != frames_of(latent_frames_of(keep_frames)) or not 1 <= keep_frames <= len(source.frames):
        raise ValueError(
            f"keep_frames={keep_frames} must be 8k + 1, at least 1, and at most the {len(source.frames)} "
            "frames of the source"
        )
    if fade_frames > max(keep_frames, FADE_FRAMES):
        raise ValueError(
            f"fade_frames={fade_frames} (--feather) is more than the {keep_frames} frames that are preserved"
        )
    # Rounded up to 8k + 1; surplus frames at the end are sampled and dropped.
    clip = source.plan(keep_frames + new_frames, stages=stages, numerics=numerics)
    return Extension(
        source=source, clip=clip, keep_frames=keep_frames, new_frames=new_frames, fade_frames=fade_frames
    )


def _usual_keep_frames(available: int) -> int:
    """The number of frames, 8k + 1, that a run continues from by default if the source has ``available``."""
    keep = min(KEEP_FRAMES, (available - 1) // 8 * 8 + 1)
    if keep < KEEP_FRAMES:
        log.warning(
            "the source has %d frames, so that the new ones continue from %d (--keep-frames) instead of %d",
            *(available, keep, KEEP_FRAMES),
        )
    return keep


def last_audio(source: Footage, seconds: float) -> Waveform:
    """The audio that belongs to the last ``seconds`` of a source's frames: (waveform (C, S), rate in Hz).

    The source must have audio.
    """
    assert source.audio is not None
    waveform, rate = source.audio
    # Cut or padded first, because the audio of a file seldom ends exactly with its frames.
    track = source.track(waveform.shape[0], rate, source.seconds)
    return track[:, track.shape[1] - round(seconds * rate) :], rate


def joined_frames(
    source: Footage, sampled: Iterator[Tensor], keep: int, new: int, fade: int
) -> Iterator[Tensor]:
    """Yield the source's frames and ``new`` sampled frames after them, in chunks (N, 3, H, W) in [-1, 1].

    ``sampled`` yields chunks in the same range; its first ``keep`` frames repeat the last ones of the source.
    The last ``fade`` frames of the source (at most ``keep``) are cross-faded with the sampled frames that
    repeat them.
    """
    fade = min(fade, keep)
    before = len(source.frames) - fade
    for start in range(0, before, CHUNK_FRAMES):
        yield to_signed(source.frames[start : min(start + CHUNK_FRAMES, before)])
    position, tail = 0, to_signed(source.frames[before:])
    for chunk in take(sampled, keep - fade, fade + new):
        mixed = max(0, min(fade - position, len(chunk)))
        if mixed:
            # Neither 0 nor 1 occurs, so that every frame of the fade is a mixture.
            weight = (torch.arange(position, position + mixed) + 1) / (fade + 1)
            old = tail[position : position + mixed]
            chunk = torch.cat((torch.lerp(old, chunk[:mixed], weight.view(-1, 1, 1, 1)), chunk[mixed:]))
        position += len(chunk)
        yield chunk


def joined_audio(source: Footage, sampled: Waveform, keep_s: float, total_s: float) -> Waveform:
    """Join the source's audio and sampled audio to ``total_s`` seconds, with a linear fade of 50 ms.

    Both are (waveform (C, S), rate in Hz). The source's samples are unchanged up to 50 ms before the joint.
    ``sampled`` begins with the audio of the last ``keep_s`` seconds of the source.
    """
    waveform, rate, channels = matched_audio(source, sampled)
    samples, joint = round(total_s * rate), round(source.seconds * rate)
    # Both tracks have the full length, so that the fade needs no offsets.
    before = torch.zeros(channels, samples)
    before[:, :joint] = source.track(channels, rate, source.seconds)
    # From two rounded numbers, so that the joint is the same sample in both tracks.
    shift = joint - round(keep_s * rate)
    after = torch.zeros(channels, samples)
    part = waveform[:, : samples - shift]
    after[:, shift : shift + part.shape[1]] = part
    return cross_fade(before, after, joint, round(FADE_S * rate)), rate


def matched_audio(source: Footage, sampled: Waveform) -> tuple[Tensor, int, int]:
    """Resample ``sampled``, (waveform (C, S), rate in Hz), to the rate of the source's audio, if it has any.

    Returns (waveform, rate in Hz, the larger number of channels of ``sampled`` and the source's audio), where
    the waveform still has the channels of ``sampled``. Audio of the source is never resampled, so that its
    samples can be preserved.
    """
    waveform, own = sampled
    if source.audio is None:
        return waveform, own, max(waveform.shape[0], 1)
    track, rate = source.audio
    waveform = waveform if own == rate else resample(waveform, own, rate)
    return waveform, rate, max(waveform.shape[0], track.shape[0])

"""Retake: regenerate time regions of a clip in one or two sampling stages and preserve the rest.

Letters: N frames, F latent frames, T audio latents, C channels, S samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..conditioning.patchify import audio_positions
from ..conditioning.regions import Region, Rounding, audio_cells, check_regions, covered, video_cells
from ..media import to_signed
from ..media.recut import Recut
from ..memory.source_stage import CHUNK_FRAMES
from ..run.audio_regions import FADE_S, with_regenerated
from ..shapes import ClipPlan, frames_of, latent_frames_of
from ..storage.files import JsonObject
from ..types import AVLatent, Numerics
from .arguments import check_source, checked, checked_rounding
from .conditioning import SourceFrames, check_audio, source_audio
from .edit import make_edit
from .extend import matched_audio
from .footage import Footage
from .joints import cropped
from .protocols import Encoders, Pipeline, SampledClip, StageInput, Waveform
from .result import Edit


def retake(
    pipeline: Pipeline,
    prompt: str,
    source: Footage,
    *,
    video: Sequence[Region] = (),
    audio: Sequence[Region] = (),
    rounding: Rounding | str = Rounding.COVER,
    paste: bool = True,
    feather: int = 0,
    allow_past_end: bool = False,
    exact_outside: bool = False,
    **options: Any,
) -> Edit:
    """Return the source with the regions ``video`` of its frames and ``audio`` of its audio regenerated.

    Regions are (start, end) in seconds; ``rounding`` says which latent frames belong to one. Every sampling
    stage is conditioned on the clean source at the size of that stage, and regenerates the same latent
    frames. The result has the size of the source, or for a ``fit`` other than "own" that of the run.

    With ``paste`` the frames outside the regenerated latent frames are the decoded frames of the source;
    without it the video VAE has encoded and decoded them. The first and last ``feather`` frames of a region
    fade from and to the source; with 0 its borders are cuts. Outside a region the samples of the source's
    audio are unchanged; the first and the last 50 ms inside it are fades. A source without audio gets audio
    over its whole length. With ``allow_past_end`` a region may end after the source, which makes the clip
    longer. If none does, frames of the source after its first 8k + 1 are not regenerated. With
    ``exact_outside`` the saved file has the encoded packets of the source's own file, except in GOPs (groups
    of pictures) with regenerated frames. ``options`` are further fields of :class:`Request`, and ``sampled``,
    ``on_sampled``, ``on_step`` and ``stop`` of :func:`~ltx2_core.editing.edit.sampled_clip`.

    Raises ValueError if nothing is to be regenerated, for regions that are negative or end before they begin,
    for those that end after the source unless that is allowed, for a negative ``feather``, for packets that
    cannot be copied, and for ``exact_outside`` without ``paste``; TypeError for a value of another type.
    """
    own = checked(paste=paste, feather=feather, allow_past_end=allow_past_end)
    checked(exact_outside=exact_outside)
    plan = plan_retake(
        check_source(source),
        video,
        audio,
        checked_rounding(rounding),
        **own,
        stages=options.get("stages", 1),
        numerics=pipeline.numerics,
    )
    if not exact_outside:
        return make_edit(pipeline, plan, prompt, **options)
    if not paste:
        raise ValueError("exact_outside and paste=False contradict each other: all frames would be new")
    # Planned before sampling, so that a file that cannot be copied costs no time.
    recut = plan.recut()
    return replace(make_edit(pipeline, plan, prompt, **options), recut=recut)


def _ranges(flags: Tensor) -> list[tuple[int, int]]:
    """The ranges (first, stop), with stop exclusive, of consecutive True values in ``flags`` (N,)."""
    # Zeros at both ends, so that a range at the border has a start and a stop, too.
    steps = functional.pad(flags.int(), (1, 1)).diff()
    return list(
        zip(
            (steps == 1).nonzero().flatten().tolist(), (steps == -1).nonzero().flatten().tolist(), strict=True
        )
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Retake:
    """A planned retake of ``source``; ``clip`` is the size and length of its sampling run.

    ``video`` (F,) and ``audio`` (T,) are True for the latents to regenerate. The run is conditioned on the
    first ``usable_frames`` frames of the source, which are 8k + 1. ``weights`` (N,) are those of the sampled
    frame in each of the N frames of the result: 1 is the sampled frame, 0 the source's own, between them a
    mixture. ``settings`` are the arguments as JSON values.
    """

    source: Footage
    clip: ClipPlan
    usable_frames: int
    weights: Tensor
    video: Tensor
    audio: Tensor
    settings: JsonObject
    regenerates_video = True

    @property
    def frame_count(self) -> int:
        """The number of frames of the result."""
        return len(self.weights)

    def conditioning(self, codecs: Encoders) -> list[StageInput]:
        if self.settings["audio"]:
            check_audio(codecs, "audio is to be regenerated (--audio-region)")
        frames = self.source.on_grid(self.clip).part(0, self.usable_frames)
        items: list[StageInput] = [SourceFrames(frames, self.video)]
        if codecs.has_audio and self.source.audio is not None:
            items.append(source_audio(codecs, self.source.audio, self.audio))
        return items

    def finish(self, sampled: SampledClip) -> Edit:
        """Put the regenerated frames and audio of the sampled clip into the source.

        All other frames and samples of the result are those of the source.
        """
        source, total = self.source.beside(sampled.clip), self.frame_count
        track, rate = retaken_audio(source, sampled.audio(), self.audio, total / source.fps)
        return Edit(
            frame_chunks=lambda: retaken_frames(source, sampled.frames(), self.weights),
            audio_chunks=lambda: iter((track,)),
            frame_count=total,
            width=source.size[0],
            height=source.size[1],
            fps=source.fps,
            rate=rate,
            settings={**sampled.settings(), "retake": self.settings},
        )

    def recut(self) -> Recut:
        """Plan a file that copies the source's packets, except in GOPs with frames that are not preserved.

        Raises ValueError, with the reason, if they cannot be copied.
        """
        return self.source.recut(_ranges(self.weights > 0), self.frame_count)

    def describe(self, *, with_audio: bool = True) -> str:
        """The text for reports; without ``with_audio`` that of a model without audio."""
        audio = self.audio.float().view(1, 1, -1, 1) if with_audio else None
        mask = AVLatent(self.video.float().view(1, 1, -1, 1, 1), audio)
        return "\n".join(str(stream) for stream in covered(mask, self.source.fps))


def plan_retake(
    source: Footage,
    video: Sequence[Region],
    audio: Sequence[Region],
    rounding: Rounding,
    *,
    paste: bool = True,
    feather: int = 0,
    allow_past_end: bool = False,
    stages: int,
    numerics: Numerics,
) -> Retake:
    """Plan a retake; its arguments are those of :func:`retake`, and it raises the same errors.

    ``stages`` is the number of sampling stages (1 or 2), which decides the sizes that can be generated;
    ``numerics`` is the implementation whose rounding is followed, the official one or ComfyUI's.
    """
    if feather < 0:
        raise ValueError(f"feather must be 0 frames or more; got {feather}")
    video, audio = check_regions(video), check_regions(audio)
    regions = (*video, *audio)
    # A source without audio always has something to generate: its audio.
    if not any(start < end for start, end in regions) and source.audio is not None:
        raise ValueError(
            "nothing is to be regenerated: set a region of the video (--video-region) or of the audio "
            "(--audio-region)"
        )
    last_frame = round(max([source.seconds, *(end for _, end in regions)]) * source.fps)
    # Compared in whole frames: an end that rounds to the last frame extends nothing.
    extends = last_frame > len(source.frames)
    if extends and not allow_past_end:
        last = max(end for _, end in regions)
        raise ValueError(
            f"a region ends at {last:g} s and the source after {source.seconds:.3f} s: use ltx2 extend "
            "to make the clip longer, a region inside it, or --allow-past-end"
        )
    # Only 8k + 1 frames can be encoded; a retake preserves the rest as it is.
    usable = frames_of(latent_frames_of(len(source.frames)))
    clip = source.plan(last_frame if extends else usable, stages=stages, numerics=numerics)
    new_video = video_cells(video, clip.latent_frames, source.fps, rounding)
    # There is no source to preserve after its last latent frame.
    new_video[latent_frames_of(usable) :] = True
    new_audio = audio_cells(audio, clip.audio_latents, rounding)
    # The last latent of the source's audio may end up to one latent after its last frame.
    audio_s = (source.seconds if extends else clip.seconds) + 0.05 if source.audio is not None else 0.0
    new_audio[audio_positions(len(new_audio))[0, 0, :, 1] > audio_s] = True
    frame_count = last_frame if extends else len(source.frames)
    weights = frame_weights(new_video, len(source.frames), frame_count, feather)
    _check_feather(new_video, weights, feather)
    if not paste:
        # Frames after the last 8k + 1 are not encoded and remain those of the source.
        weights[: clip.frames] = 1
    settings: JsonObject = {"video": [*video], "audio": [*audio], "rounding": rounding.value, "paste": paste}
    return Retake(
        source=source,
        clip=clip,
        usable_frames=usable,
        weights=weights,
        video=new_video,
        audio=new_audio,
        # Files of the default borders stay as they were.
        settings={**settings, "feather": feather} if feather else settings,
    )


def frame_weights(regenerated: Tensor, sources: int, total: int, feather: int) -> Tensor:
    """Weights (total,) of the sampled frames in the result, 0 to 1, for ``total`` frames.

    A frame has weight 1 if its latent frame is True in ``regenerated`` (F,), else 0; frames after these F
    latent frames have 0. Towards the borders of a region its first and last ``feather`` weights fall linearly
    to those of the preserved frames. The source has ``sources`` frames; later frames have weight 1, because
    there is nothing to preserve.
    """
    # Latent frame 0 stands for frame 0, and each later one for eight frames.
    latent = (torch.arange(total) + 7) // 8
    inside = functional.pad(regenerated, (0, int(latent[-1]) + 1 - len(regenerated)))[latent]
    inside[sources:] = True
    weights = inside.float()
    preserved = torch.nonzero(~inside)[:, 0]
    if feather and len(preserved):
        numbers = torch.arange(total)
        after = torch.searchsorted(preserved, numbers)
        before = preserved[(after - 1).clamp(min=0)]
        after = preserved[after.clamp(max=len(preserved) - 1)]
        distance = torch.minimum((numbers - before).abs(), (after - numbers).abs())
        weights = (distance / (feather + 1)).clamp(max=1)
        weights[sources:] = 1
    return weights


def _check_feather(regenerated: Tensor, weights: Tensor, feather: int) -> None:
    """Raise ValueError if a region is too short to fade over ``feather`` frames at its ends.

    ``regenerated`` (F,) is True for latent frames that are regenerated, ``weights`` (total,) are those of
    :func:`frame_weights`.
    """
    if not feather or not regenerated.any():
        return
    # Frames between two preserved ones are a region.
    inside = weights > 0
    starts = torch.nonzero(inside & ~functional.pad(inside, (1, 0))[:-1])[:, 0].tolist()
    for start in starts:
        length = int(torch.cumprod(inside[start:].long(), 0).sum())
        if float(weights[start : start + length].max()) * (feather + 1) < feather - 1e-4:
            raise ValueError(
                f"feather={feather} is too much for a region of {length} frames, none of which would be all "
                "new: use a smaller number or a longer region"
            )


def retaken_frames(source: Footage, sampled: Iterator[Tensor], weights: Tensor) -> Iterator[Tensor]:
    """Mix sampled frames into the source; yields chunks (N, 3, H, W) in [-1, 1] of the source's size.

    ``sampled`` yields chunks in the same range. The result has as many frames as ``weights`` (N,): weight 1
    takes the frame of ``sampled``, 0 the frame of the source, unchanged. Frames after the last sampled one
    are those of the source.
    """
    position, total = 0, len(weights)
    for chunk in cropped(sampled, source.size):
        chunk = chunk[: total - position]
        share = weights[position : position + len(chunk)].view(-1, 1, 1, 1)
        # Frames of the source are decoded only where they are needed.
        if bool((share < 1).any()):
            own = to_signed(source.frames[position : position + len(chunk)])
            new, share = chunk[: len(own)].to(own), share[: len(own)]
            # A lerp of weight 0 or 1 rounds, and these frames are exact.
            mixed = torch.where(share == 0, own, torch.where(share == 1, new, torch.lerp(own, new, share)))
            chunk = torch.cat((mixed, chunk[len(own) :].to(own)))
        position += len(chunk)
        yield chunk
    # Decoded in chunks, since the source may be much longer than the region.
    for start in range(position, total, CHUNK_FRAMES):
        yield to_signed(source.frames[start : min(start + CHUNK_FRAMES, total)])


def retaken_audio(source: Footage, sampled: Waveform, regenerated: Tensor, seconds: float) -> Waveform:
    """Mix sampled audio into the source's: sampled where ``regenerated`` (T,) is True.

    ``regenerated`` has one value per audio latent. Audio is (waveform (C, S), rate in Hz); the result is
    exactly ``seconds`` long. The first and last 50 ms of a region are linear fades, unless the source has no
    audio.
    """
    waveform, rate, channels = matched_audio(source, sampled)
    preserved = source.track(channels, rate, seconds)
    fade_s = 0.0 if source.audio is None else FADE_S
    return with_regenerated(preserved, waveform, rate, regenerated, fade_s=fade_s), rate

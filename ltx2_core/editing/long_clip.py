"""Samples a long clip window by window, so that the run can be resumed, and decodes it as a stream.

A window is one sampling run. Nothing here depends on how a window is sampled: the library and ComfyUI each
pass a function for it. Letters: N frames, H W latent rows and columns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..conditioning.guide_frames import GuideFrames
from ..conditioning.items import Conditioning, InputAudio, Overlap
from ..latent_filters import adain
from ..media import fit_image
from ..run.input_check import check_frames
from ..run.request import AudioSource
from ..shapes import ClipPlan
from ..text.schedule import PromptSchedule
from ..types import AVLatent
from .audio_track import audio_rate, decoded_audio, read_input_audio
from .conditioning import Keyframe
from .long_options import LongVideo
from .protocols import Decoders, Encoders
from .result import Edit
from .sources import check_length, source_frames
from .windows import (
    Window,
    WindowStore,
    audio_pieces,
    plan_windows,
    video_pieces,
)

log = logging.getLogger(__name__)

OnWindow = Callable[[int, int], None]
"""Called with (windows that are finished, all windows)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowRun:
    """Everything from which one window of a long clip is sampled.

    ``conditioning`` items are applied in their order, after the first image of the request if there is one:
    input audio, then the overlap with the window before, then the keyframes in this window. ``source`` (N, 3,
    H, W) in [0, 1] are the frames of the clip's source in this window, at their own size; None if the clip
    has no source.
    """

    window: Window
    prompt: str
    seed: int
    conditioning: tuple[Conditioning, ...]
    source: Tensor | None


SampleWindow = Callable[[WindowRun], AVLatent]
"""Samples one window and removes its guides."""


class PrepareSampler(Protocol):
    """A function that prepares the sampling of windows and returns the function that samples one window.

    It is called once, with the plan and the prompts of the windows that are left to sample, in order and each
    prompt once, so that all can be encoded before the transformer is loaded. There are no prompts if all
    windows are finished already.
    """

    def __call__(self, plan: LongPlan, prompts: tuple[str, ...]) -> SampleWindow: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class LongPlan:
    """A planned long clip: its windows, prompts and seed, and the input audio if there is any.

    ``clip`` is the size and length of the whole clip, ``how`` has the options by which it was divided. The
    noise of window i is drawn with ``seed`` + i. The input ``audio``, from second ``audio_start_s`` on, is
    the audio of the finished clip. ``audio_latent`` (1, 8, T, 16) is its encoded form, which every window
    preserves; it is None if there is no input audio, or if the function that samples a window encodes the
    audio itself.
    """

    clip: ClipPlan
    windows: tuple[Window, ...]
    prompts: PromptSchedule
    how: LongVideo
    seed: int
    audio: AudioSource | None = None
    audio_start_s: float = 0.0
    audio_latent: Tensor | None = None

    def prompt_of(self, window: Window) -> str:
        return self.prompts.at(window.prompt_s, window.index)

    def windows_of_prompts(self) -> tuple[tuple[int, ...], ...]:
        """Return the indices of the windows that have each part of ``prompts``; a part may have none.

        A window has one prompt, that of the middle of its new frames.
        """
        part = {w.index: self.prompts.part_at(w.prompt_s, w.index) for w in self.windows}
        return tuple(
            tuple(index for index, own in part.items() if own == number)
            for number in range(len(self.prompts.parts))
        )

    def warn_of_unused_prompts(self) -> None:
        """Log a warning for each prompt that no window has."""
        for number, windows in enumerate(self.windows_of_prompts()):
            if not windows:
                log.warning(
                    "prompts: no window has the one %s (%.40s): a window has the prompt of the middle of its "
                    "new frames; use shorter windows, or a longer time for the prompt",
                    *(self.prompts.when(number), self.prompts.parts[number][1]),
                )

    def run_of(self, window: Window, before: AVLatent | None, keyframes: Sequence[GuideFrames]) -> WindowRun:
        """Collect everything from which ``window`` is sampled.

        ``before`` are the latents of the previous window, None for the first one. ``keyframes`` are all
        encoded keyframes of the clip; the run gets those that lie in the window.
        """
        items: list[Conditioning] = []
        if self.audio_latent is not None:
            end = window.audio_start + window.clip.audio_latents
            items.append(InputAudio(latent=self.audio_latent[:, :, window.audio_start : end]))
        if before is not None:
            items.append(_overlap(window, before, self.how.overlap_strength))
        for keyframe in keyframes:
            frame = window.frame_within(keyframe.frame)
            if frame is not None:
                items.append(replace(keyframe, frame=frame))
        source = self.how.source
        return WindowRun(
            window=window,
            prompt=self.prompt_of(window),
            # Each window has noise of its own; seeds have 64 bits.
            seed=(self.seed + window.index) % 2**64,
            conditioning=tuple(items),
            source=None if source is None else source_frames(source, window.first_frame, window.clip.frames),
        )


def plan_long(
    clip: ClipPlan,
    prompts: PromptSchedule,
    how: LongVideo,
    *,
    seed: int,
    audio: AudioSource | None = None,
    audio_start_s: float = 0.0,
    audio_latent: Tensor | None = None,
) -> LongPlan:
    """Divide a clip into windows as ``how`` says; ``prompts`` has the prompt of each.

    The noise of window i is drawn with ``seed`` + i. The audio arguments are those of :class:`LongPlan`.
    Raises ValueError for windows of wrong length, keyframes outside the clip, and a source that is too short.
    """
    windows = plan_windows(clip, how.window_frames, how.shared_frames)
    for keyframe in how.keyframes:
        _check_keyframe(keyframe, clip)
    try:
        check_frames([keyframe.frame % clip.frames for keyframe in how.keyframes], first=None)
    except ValueError as error:
        raise ValueError(f"keyframes: {error}") from None
    if how.source is not None:
        check_length(how.source, clip.frames)
    return LongPlan(
        clip=clip,
        windows=windows,
        prompts=prompts,
        how=how,
        seed=seed,
        audio=audio,
        audio_start_s=audio_start_s,
        audio_latent=audio_latent,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledWindows:
    """A sampled long clip, whose windows are files in ``store``.

    ``reused`` is the number of windows that an earlier run had sampled. Input ``audio``, from second
    ``audio_start_s`` on, is the audio of the finished clip; if it is None, that is the sampled audio.
    """

    clip: ClipPlan
    windows: tuple[Window, ...]
    store: WindowStore
    reused: int
    audio: AudioSource | None
    audio_start_s: float

    def finish(self, codecs: Decoders, settings: Mapping[str, Any] | None = None) -> Edit:
        """Return the whole clip, which is decoded in chunks when its frames and audio are read.

        Memory does not grow with its length. ``codecs`` decode the latents. ``settings`` are JSON values for
        the tags of a file; None for none.
        """
        silent = self.audio is None and not codecs.has_audio
        rate = 0
        if not silent:
            rate = _decoded_rate(codecs) if self.audio is None else audio_rate(self.audio)

        def frames(*, as_bytes: bool = False) -> Iterator[Tensor]:
            return codecs.decode_video(video_pieces(self.windows, self.store), as_bytes=as_bytes)

        def audio() -> Iterator[Tensor]:
            if self.audio is not None:
                return read_input_audio(self.audio, self.audio_start_s, self.clip)
            pieces = audio_pieces(self.windows, self.store)
            return decoded_audio(lambda latent: codecs.decode_audio(latent)[0], pieces, self.clip, rate)

        edit = Edit(
            frame_chunks=frames,
            audio_chunks=audio,
            frame_count=self.clip.frames,
            width=self.clip.width,
            height=self.clip.height,
            fps=self.clip.fps,
            rate=rate,
            settings=settings or {},
            byte_chunks=lambda: frames(as_bytes=True),
        )
        return edit.silent() if silent else edit

    def describe(self) -> str:
        folder = self.store.folder
        longest = max(window.clip.frames for window in self.windows)
        return (
            f"{len(self.windows)} windows of up to {longest} frames for {self.clip.frames} frames; "
            f"{self.reused} of them reused from {folder.parent.name}/{folder.name}"
        )


def sample_windows(
    plan: LongPlan,
    store: WindowStore,
    codecs: Encoders,
    prepare: PrepareSampler,
    *,
    on_window: OnWindow | None = None,
) -> SampledWindows:
    """Sample, in order, every window that ``store`` does not hold yet, and save it there.

    Each window continues from the end of the one before. If the plan's ``overlap_strength`` is 1 the shared
    frames are preserved, otherwise they are regenerated in part and cross-faded. ``codecs`` encode the
    keyframes; ``prepare`` returns the function that samples a window. ``on_window`` is called after each
    window, also one that was in the store, with (number of windows done, number of all windows). Raises
    ValueError if another run writes to the store.
    """
    with store.writing():
        # Any window may be missing and not only the last ones: a damaged file is sampled again by itself.
        missing = [window for window in plan.windows if not store.has(window.index)]
        keyframes = [_encoded(keyframe, codecs, plan.clip) for keyframe in plan.how.keyframes]
        plan.warn_of_unused_prompts()
        sample = prepare(plan, tuple(dict.fromkeys(plan.prompt_of(window) for window in missing)))
        for window in plan.windows:
            if window in missing:
                # Read back even if it was sampled just now, so that a resumed run continues from the same
                # numbers.
                before = store.load(window.index - 1) if window.index else None
                latent = sample(plan.run_of(window, before, keyframes)).to("cpu", torch.float32)
                if before is not None:
                    # Before the cross-fade, whose mixture has the statistics of two windows.
                    latent = _recoloured(latent, store, plan.how.adain_factor)
                    latent = window.blended(before, latent)
                store.save(window.index, latent)
            if on_window is not None:
                on_window(window.index + 1, len(plan.windows))
    return SampledWindows(
        clip=plan.clip,
        windows=plan.windows,
        store=store,
        reused=len(plan.windows) - len(missing),
        audio=plan.audio,
        audio_start_s=plan.audio_start_s,
    )


def _overlap(window: Window, before: AVLatent, strength: float) -> Overlap:
    """Conditioning with which ``window`` begins: the last latents of the previous window, from ``before``.

    They are as many latent frames and audio latents as the two windows share. ``strength`` 1 preserves them,
    less regenerates them in part. The window generates its first latent frame itself, because one from inside
    a clip cannot be the first of a run.
    """
    video = None if before.video is None else before.video[:, :, -window.overlap :]
    audio = None
    if before.audio is not None and window.audio_overlap > 0:
        audio = before.audio[:, :, -window.audio_overlap :]
    # A latent frame from inside a clip stands for eight frames and cannot serve as the first of a run.
    return Overlap(video=video, audio=audio, skip=1, strength=strength)


def _recoloured(latent: AVLatent, store: WindowStore, factor: float) -> AVLatent:
    """Bring mean and standard deviation of each video channel towards those of the first window (AdaIN).

    ``latent`` is that of a later window. ``factor`` is from 0, which changes nothing, to 1, which gives it
    those of the first window; ``store`` holds that window.
    """
    if not factor or latent.video is None:
        return latent
    first = store.load(0).video
    assert first is not None
    return replace(latent, video=adain(latent.video, first, factor=factor))


def _check_keyframe(keyframe: Keyframe, clip: ClipPlan) -> None:
    if len(keyframe.frames) != 1:
        raise ValueError(f"keyframes: each is one image; got {len(keyframe.frames)}")
    if not -clip.frames <= keyframe.frame < clip.frames:
        raise ValueError(
            f"keyframes: frame {keyframe.frame} is not in a clip of frames 0 to {clip.frames - 1}"
        )


def _encoded(keyframe: Keyframe, codecs: Encoders, clip: ClipPlan) -> GuideFrames:
    """Encode a keyframe as a guide at the size of ``clip``, the whole long clip.

    The guide's frame counts from the beginning of that clip, and its attention is plain.
    """
    # A keyframe is encoded once although windows that overlap may both contain it.
    latent = codecs.encode_video(fit_image(keyframe.frames, clip.width, clip.height))
    return GuideFrames(latent=latent, frame=keyframe.frame % clip.frames, strength=keyframe.strength)


def _decoded_rate(codecs: Decoders) -> int:
    """The sample rate of decoded audio in Hz, found by decoding a very short latent."""
    # Decoders return the rate only together with samples.
    return codecs.decode_audio(torch.zeros(1, 8, 2, 16))[1]

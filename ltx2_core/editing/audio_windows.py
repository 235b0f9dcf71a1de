"""Generates audio for a long video window by window, so that memory does not grow with the video.

Letters: T audio latents, C channels, S samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..conditioning.items import Overlap
from ..run.generation import Generation
from ..run.progress import OnStep, Stop
from ..run.request import Request
from ..shapes import TEMPORAL_SCALE, ClipPlan
from ..storage.files import JsonObject
from ..types import AVLatent
from .audio_track import decoded_audio
from .conditioning import Encoded, WholeVideo
from .edit import check_resumed, sample
from .footage import Footage
from .protocols import Decoders, LongPipeline, OnSampled, StageInput, Waveform
from .sources import frames_identity
from .windows import Places, Window, WindowStore, clip_digest, models_of, plan_windows

WINDOW_FRAMES = 257
"""Frames of a video up to which its audio is sampled in one run; longer ones take several."""
OVERLAP_S = 1.0
"""Seconds of audio that a window takes from the one before and continues."""


def audio_windows(clip: ClipPlan, window_frames: int) -> tuple[Window, ...]:
    """Divide a clip into windows of at most ``window_frames`` (8k + 1) frames, for sampling its audio.

    Neighbours overlap by about a second, by at most half a window, and by at least 16 frames. Raises
    ValueError if ``window_frames`` is not 8k + 1, or is below 17.
    """
    overlap = max(round(OVERLAP_S * clip.fps / TEMPORAL_SCALE), 2) * TEMPORAL_SCALE
    # At least half of each window is new, at high frame rates too.
    shorter = max((window_frames - 1) // (2 * TEMPORAL_SCALE), 2) * TEMPORAL_SCALE
    return plan_windows(clip, window_frames, min(overlap, shorter))


@dataclass(frozen=True, eq=False)
class SampledAudio:
    """Sampled audio of any length, without video; :meth:`audio` decodes it.

    ``generation`` holds the audio's latent, which ``codecs`` decode.
    """

    generation: Generation
    codecs: Decoders

    @property
    def clip(self) -> ClipPlan:
        return self.generation.clip

    def frames(self) -> Any:
        raise ValueError("only the audio was sampled: the frames are those of the source")

    def audio(self) -> Waveform:
        latent, clip = self.generation.latents.audio, self.clip
        assert latent is not None
        # Two latents are enough to learn the rate, without decoding the whole track.
        rate = self.codecs.decode_audio(latent[:, :, :2])[1]
        chunks = decoded_audio(lambda part: self.codecs.decode_audio(part)[0], iter((latent,)), clip, rate)
        return torch.cat(list(chunks), dim=1), rate

    def settings(self) -> Mapping[str, Any]:
        return self.generation.settings()


def sampled_audio(
    pipeline: LongPipeline,
    prompt: str,
    source: Footage,
    windows: tuple[Window, ...],
    clip: ClipPlan,
    *,
    places: Places | None = None,
    sampled: Generation | None = None,
    on_sampled: OnSampled | None = None,
    on_step: OnStep | None = None,
    stop: Stop | None = None,
    **options: Any,
) -> SampledAudio:
    """Sample the audio of ``clip`` window by window; each continues the audio of the one before.

    ``clip`` is the size and length of the whole run, ``windows`` its division, and ``source`` the video that
    each window is conditioned on. The noise of a window is drawn with the request's seed plus the window's
    number. All windows but the last are saved below ``places`` when they are finished (None saves nothing):
    another call with the same arguments samples the last window and those that are missing, and ends with the
    identical audio. The other arguments are those of :func:`~ltx2_core.editing.edit.sampled_clip`; if
    ``sampled`` is not None nothing is sampled. Raises ValueError if ``sampled`` does not fit the request, and
    if another run is writing the same windows.
    """
    size = {"width": clip.width, "height": clip.height, "fps": clip.fps}
    whole = pipeline.resolve(Request(prompt=prompt, **{**options, **size, "num_frames": clip.frames}))
    if whole.text.at is not None:
        raise ValueError("prompts_at is for a clip of one run: audio for a video is sampled in windows")
    if sampled is not None:
        return SampledAudio(check_resumed(pipeline, whole, sampled), pipeline)
    seed, track, result = whole.sampling.seed, torch.zeros(1, 8, 0, 16), None
    assert seed is not None
    store = None if places is None else _store(pipeline, whole, source, windows, places)
    with nullcontext() if store is None else store.writing():
        for window in windows:
            # The last one is sampled even after a stop, since it also holds the settings of the run.
            last = window is windows[-1]
            if store is not None and not last and store.has(window.index):
                latent = store.load(window.index).audio
            else:
                request = whole.changed(num_frames=window.clip.frames, seed=(seed + window.index) % 2**64)
                result = sample(pipeline, request, _conditioning(source, window, track), on_step, stop)
                latent = result.latents.audio
                if store is not None and not last:
                    store.save(window.index, AVLatent(None, latent))
            assert latent is not None
            # The new window has preserved the overlap, so that its own copy replaces the old one.
            track = torch.cat((track[:, :, : window.audio_start], latent.cpu().float()), dim=2)
    assert result is not None
    # Without video, which takes most of the room in saved latents: the frames are those of the source.
    generation = replace(result, latents=AVLatent(None, track), clip=clip, request=whole)
    if on_sampled is not None:
        on_sampled(generation)
    return SampledAudio(generation, pipeline)


def _conditioning(source: Footage, window: Window, track: Tensor) -> list[StageInput]:
    """The conditioning items of ``window``: the frames of ``source`` in it, and the audio that it continues.

    ``track`` (1, 8, T, 16) is the latent of all audio sampled so far. The window begins with the last
    ``window.audio_overlap`` latents of it.
    """
    first = window.first_frame
    items: list[StageInput] = [WholeVideo(source.part(first, first + window.clip.frames))]
    if window.audio_overlap > 0:
        items.append(Encoded(Overlap(video=None, audio=track[:, :, -window.audio_overlap :])))
    return items


def _store(
    pipeline: LongPipeline,
    whole: Request,
    source: Footage,
    windows: tuple[Window, ...],
    places: Places,
) -> WindowStore:
    """Open, or create empty, the store of the finished windows of a run that generates audio for a video.

    Its folder is a subfolder of ``places.folder``, named by a digest of the request ``whole``, the
    ``source``, the ``windows`` and the models, so that only a run with the same arguments finds it again.
    """
    settings: JsonObject = {
        "windows": [[window.start, window.clip.frames] for window in windows],
        "source": [frames_identity(source.frames), source.fps, source.fit],
        "request": whole.settings(),
    }
    models = models_of(pipeline)
    own = places.folder / clip_digest(settings, models)
    return WindowStore(own, settings, models, spare=places.spare)

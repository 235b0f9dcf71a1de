"""The image, the sound and the voice of a request, encoded at the size of each stage.

Letters: N pictures, C channels, S samples, H W pixel rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional

from ..audio import with_noise_floor
from ..conditioning.items import Conditioning, ImageInPlace, InputAudio
from ..conditioning.reference import ReferenceAudio
from ..media import compress_image, fit_image, load_image, read_audio
from ..media.images import FitMode
from ..shapes import ClipPlan
from ..types import Numerics
from .codecs import Codecs
from .progress import Run
from .request import Request, Stage


def read_input_audio(request: Request, stage: Stage) -> tuple[Tensor, int] | None:
    """The audio of the request ((C, S), Hz), as long as the clip or shorter."""
    if request.audio is None:
        return None
    if not isinstance(request.audio, tuple):
        return read_audio(request.audio, start_s=request.audio_start_s, duration_s=stage.clip.seconds)
    waveform, rate = request.audio
    start = round(request.audio_start_s * rate)
    return waveform[:, start : start + round(stage.clip.seconds * rate)], rate


def conditioning(
    codecs: Codecs,
    request: Request,
    stages: Sequence[Stage],
    sound: tuple[Tensor, int] | None,
    run: Run,
) -> list[list[Conditioning]]:
    """What is given to each stage, encoded at its size; ``sound`` is that of the request."""
    items: list[list[Conditioning]] = [[] for _ in stages]
    if request.image is not None:
        run.report("image", 0, 1)
        frames = _pictures(request.image)
        for stage, given in zip(stages, items, strict=True):
            pixels = _prepare(frames, stage, request.image_crf, codecs.networks.numerics)
            given.append(ImageInPlace(latent=codecs.encode_video(pixels), strength=stage.image_strength))
    if request.reference_audio is not None:
        run.report("reference", 0, 1)
        voice = ReferenceAudio(latent=codecs.encode_audio(*_reference(request)))
        for given in items:
            given.append(voice)
    if sound is not None:
        run.report("audio", 0, 1)
        clip = stages[0].clip
        latent = codecs.encode_audio(
            *_heard(sound, clip, request.audio_noise_db), latent_frames=clip.audio_latents
        )
        for given in items:
            given.append(InputAudio(latent=latent))
    return items


def _prepare(frames: Tensor, stage: Stage, crf: int, numerics: Numerics) -> Tensor:
    """Pictures at the stage's size; a single one goes through an H.264 round trip."""
    mode: FitMode = "comfy" if numerics is Numerics.COMFY else "official"
    if len(frames) == 1 and mode == "official":
        frames = compress_image(frames[0], crf)[None]
    frames = fit_image(frames, stage.clip.width, stage.clip.height, mode=mode)
    if len(frames) == 1 and mode == "comfy":
        frames = compress_image(frames[0], crf)[None]
    return frames


def _heard(audio: tuple[Tensor, int], clip: ClipPlan, noise_db: float | None) -> tuple[Tensor, int]:
    """A given sound as the model hears it: over a noise floor, if any, until the end of the clip."""
    if noise_db is None:
        return audio
    waveform, rate = audio
    missing = max(0, math.ceil(clip.seconds * rate) - waveform.shape[1])
    return with_noise_floor(functional.pad(waveform, (0, missing)), noise_db), rate


def _reference(request: Request) -> tuple[Tensor, int]:
    """The beginning of the reference sound."""
    if not isinstance(request.reference_audio, tuple):
        assert request.reference_audio is not None
        return read_audio(request.reference_audio, duration_s=request.reference_s)
    waveform, rate = request.reference_audio
    return waveform[:, : round(request.reference_s * rate)], rate


def _pictures(image: Any) -> Tensor:
    """One picture or a clip as (N, 3, H, W) in [0, 1]."""
    if isinstance(image, Tensor) and image.ndim == 4 and image.shape[0] > 1:
        return image
    return load_image(image)

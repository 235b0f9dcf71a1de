"""Reads the inputs of a request and encodes them at the size of each stage.

Letters: N frames, C channels, S samples, H W pixel rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from os import PathLike, fspath
from typing import Any, Protocol

from torch import Tensor
from torch.nn import functional

from ..audio import with_noise_floor
from ..conditioning.guide_frames import GuideFrames
from ..conditioning.guides import place_guide
from ..conditioning.inputs import Fit, ImageAt, Inputs, VideoReference
from ..conditioning.items import Conditioning, ImageInPlace, InputAudio, PreserveOutside
from ..conditioning.reference import ReferenceAudio
from ..conditioning.regions import Rounding, audio_cells
from ..conditioning.slots import KeyframeSlots
from ..loading import Lora
from ..media import compress_image, fit_image, read_audio, read_video
from ..media.clip_frames import ClipFrames, Frames
from ..media.exr import is_exr
from ..media.images import Colour, FitMode, ImageSource, parse_colour
from ..shapes import SPATIAL_SCALE, ClipPlan, frames_of, latent_frames_of
from ..storage.files import JsonObject, JsonValue
from ..types import AVLatent, Numerics
from .codecs import Codecs
from .hdr_inputs import exr_codes, read_image
from .progress import Run
from .recipes import DEFAULT
from .request import Request
from .stages import Stage


class ConditioningInput(Protocol):
    """A conditioning item that is passed to a pipeline call in addition to the request, not yet encoded.

    An example is a region of a source video. The call encodes it for each stage, at the size of the stage.
    """

    def at(self, pipeline: Any, clip: ClipPlan) -> Conditioning:
        """Encode the item for a stage that samples the size and length ``clip``.

        ``pipeline`` has the methods that encode frames and audio. The result can be applied to the state that
        the stage starts from.
        """
        ...


def read_input_audio(request: Request, stage: Stage) -> tuple[Tensor, int] | None:
    """Read the audio that the request names and cut it to the length of the clip of ``stage``.

    Returns (waveform (channels, samples) in [-1, 1], rate in Hz), or None if the request names no audio. The
    waveform is shorter than the clip if the audio ends early. Raises ValueError if it has no samples from the
    requested start on, and what :func:`read_audio` raises for a file.
    """
    track = request.inputs.audio
    if track.source is None:
        return None
    if not isinstance(track.source, tuple):
        return read_audio(track.source, start_s=track.start_s, duration_s=stage.clip.seconds)
    # Audio in memory is cut here; a file is only read as far as it is needed.
    waveform, rate = track.source
    start = round(track.start_s * rate)
    if start >= waveform.shape[1]:
        raise ValueError(
            f"the waveform has no samples from {track.start_s:g} s on: it is {waveform.shape[1] / rate:g} s "
            "long"
        )
    return waveform[:, start : start + round(stage.clip.seconds * rate)], rate


def conditioning(
    codecs: Codecs,
    request: Request,
    stages: Sequence[Stage],
    audio: tuple[Tensor, int] | None,
    run: Run,
) -> list[list[Conditioning]]:
    """Encode all inputs of a request; returns for each of ``stages`` the list of its conditioning items.

    ``audio`` is what :func:`read_input_audio` returned; None without input audio. ``run`` receives progress.
    """
    inputs, colour = request.inputs, parse_colour(request.inputs.background)
    by_input: list[Sequence[Conditioning | None]] = []
    if inputs.image.source is not None:
        run.report("image", 0, 1)
        frames, crf = _image_frames(inputs.image.source, colour), _crf(inputs.image.crf, request)
        hdr = inputs.hdr if is_exr(inputs.image.source) else None
        by_input.append([_first_image(codecs, frames, stage, crf, inputs.fit, hdr) for stage in stages])
    if inputs.reference_audio.source is not None:
        run.report("reference", 0, 1)
        # A voice has no size in pixels and is the same in every stage.
        voice = ReferenceAudio(latent=codecs.encode_audio(*_reference_audio(request)))
        by_input.append([voice] * len(stages))
    # A model without audio does not attend to it; the clip has it as its track all the same.
    if audio is not None and codecs.networks.has_audio:
        run.report("audio", 0, 1)
        # Stages differ in size only, so the latent of the audio serves all of them.
        clip = stages[0].clip
        latent = codecs.encode_audio(
            *_with_noise(audio, clip, inputs.audio.noise_db), latent_frames=clip.audio_latents
        )
        by_input.append([_input_audio(latent, request)] * len(stages))
    for image in inputs.images:
        run.report("image", 0, 1)
        crf = _crf(image.crf, request)
        # Every stage has a size of its own, so the image is encoded for each.
        by_input.append([_keyframe(codecs, image, stage.clip, crf, inputs) for stage in stages])
    slots = [stage.keyframes for stage in stages]
    if request.staging.pipeline is None and any(slots):
        # The official order: references come after them.
        by_input.append([KeyframeSlots(frames=frames) if frames else None for frames in slots])
    for reference in inputs.references:
        run.report("reference", 0, 1)
        by_input.append([_video_reference(codecs, reference, stage.clip, inputs) for stage in stages])
    each = ([in_stages[index] for in_stages in by_input] for index in range(len(stages)))
    return [[item for item in items if item is not None] for items in each]


def _input_audio(latent: Tensor, request: Request) -> Conditioning:
    """The item of input audio, a latent (1, 8, T, 16), which is generated in the regions of ``request``."""
    regions = request.inputs.audio.regions
    if not regions:
        return InputAudio(latent=latent)
    generated = audio_cells(regions, latent.shape[2], Rounding.COVER)
    return PreserveOutside(latent=AVLatent(None, latent), video=generated[:0], audio=generated)


def source_size(items: Sequence[ConditioningInput]) -> tuple[int, int] | None:
    """The largest (width, height) in pixels of the source videos among ``items``; None if there are none."""
    sizes = [size for item in items if (size := getattr(item, "footage_size", None)) is not None]
    # The largest one decides how much memory reading takes.
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


def describe(item: ConditioningInput) -> JsonObject:
    """Describe a conditioning item as JSON values to be stored with a clip: its class and its plain fields.

    A value that JSON does not have is replaced by a note such as ``<Tensor in memory>``.
    """
    values: JsonObject = {"kind": type(item).__name__}
    if is_dataclass(item):
        values |= {field.name: _described(getattr(item, field.name)) for field in fields(item)}
    return values


def _described(value: object) -> JsonValue:
    if isinstance(value, PathLike):
        path: str = fspath(value)
        return path
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return f"<{type(value).__name__} in memory>"


def _crf(crf: int | None, request: Request) -> int:
    """The constant rate factor with which an image is compressed: its own, the request's, or the default.

    ``crf`` is the image's own; if it is None, that of ``request`` is used, and if that is None the default.
    """
    if crf is not None:
        return crf
    of_request = request.inputs.image.crf
    return DEFAULT.image_crf if of_request is None else of_request


def _prepare(
    frames: Tensor, clip: ClipPlan, crf: int, numerics: Numerics, fit: Fit, hdr: str | None
) -> Tensor:
    """Fit ``frames`` (N, 3, H, W) to the size of ``clip``: returns (N, 3, height, width) in [0, 1].

    ``frames`` are in [0, 1], or linear light of an EXR image, whose colour space is then ``hdr`` (else
    None). ``fit`` says how frames of another shape are fitted. A single frame is also encoded to H.264 at
    ``crf`` and decoded again: with official ``numerics`` before it is fitted, with those of ComfyUI after it.
    An EXR image becomes log codes in [0, 1] instead, and is always cropped.
    """
    if hdr is not None:
        return exr_codes(frames, hdr, clip, numerics)
    comfy = numerics.is_comfy
    # Official pipelines compress the image at its own size, ComfyUI after it was resized.
    if len(frames) == 1 and not comfy:
        frames = compress_image(frames[0], crf)[None]
    frames = fit_image(frames, clip.width, clip.height, mode=_mode(fit, "comfy" if comfy else "official"))
    if len(frames) == 1 and comfy:
        frames = compress_image(frames[0], crf)[None]
    return frames


def _mode(fit: Fit, crop: FitMode) -> FitMode:
    """Translate the ``fit`` of a request to a mode of ``fit_image``.

    "crop" becomes ``crop``, the way of cropping that the numerics prescribe; the others have the same names.
    """
    return crop if fit == "crop" else fit


def first_image_pixels(request: Request, clip: ClipPlan, numerics: Numerics) -> Tensor | None:
    """The pixels that a request's first image is encoded from: (N, 3, H, W) in [0, 1]; None without an image.

    N is 1 for an image; for a clip that the video starts with it is the number of its frames. H and W are
    those of ``clip``. See :func:`_prepare`, which makes these pixels, for ``numerics``.
    """
    image, inputs = request.inputs.image, request.inputs
    if image.source is None:
        return None
    frames = _image_frames(image.source, parse_colour(inputs.background))
    hdr = inputs.hdr if is_exr(image.source) else None
    return _prepare(frames, clip, _crf(image.crf, request), numerics, inputs.fit, hdr)


def _first_image(
    codecs: Codecs, frames: Tensor, stage: Stage, crf: int, fit: Fit, hdr: str | None
) -> ImageInPlace:
    """Encode the input image, or clip, for the first frames of a stage.

    ``frames`` (N, 3, H, W) in [0, 1] are fitted to the size of ``stage`` as ``fit`` says; a single frame is
    compressed with H.264 at ``crf``. ``hdr`` is the colour space of an EXR image, else None.
    """
    pixels = _prepare(frames, stage.clip, crf, codecs.networks.numerics, fit, hdr)
    return ImageInPlace(latent=codecs.encode_video(pixels), strength=stage.image_strength)


def _keyframe(codecs: Codecs, image: ImageAt, clip: ClipPlan, crf: int, inputs: Inputs) -> GuideFrames:
    """Encode ``image`` at the size of ``clip`` as a guide at its frame.

    ``crf`` is the constant rate factor of the image's H.264 compression. ``inputs`` are those of the request:
    they say how an image of another shape is fitted, and what replaces transparent pixels.
    """
    # A negative number counts from the end of the clip, and is resolved before the image is encoded.
    placed = place_guide(1, image.frame, clip.latent_frames)
    frames = read_image(image.source, background=parse_colour(inputs.background))
    hdr = inputs.hdr if is_exr(image.source) else None
    pixels = _prepare(frames, clip, crf, codecs.networks.numerics, inputs.fit, hdr)
    return GuideFrames(
        latent=codecs.encode_video(pixels), frame=placed.frame, strength=image.strength, single_frame=True
    )


def _video_reference(
    codecs: Codecs, reference: VideoReference, clip: ClipPlan, inputs: Inputs
) -> GuideFrames:
    """Encode a control video or reference as a guide that lasts as long as ``clip``, or as its range.

    ``inputs`` are those of the request: they say how frames of another shape are fitted, what replaces
    transparent pixels, and which colour space a folder of EXR images has. Raises ValueError if the video is
    shorter than its range, or if the clip's size cannot be divided by the scale of the reference.
    """
    scale, every = reference_scale(reference, codecs.loras, clip), reference_every(reference, codecs.loras)
    placed = reference.place(clip)
    needed = placed.encoded - placed.lead
    size, mode = (clip.width // scale, clip.height // scale), _mode(inputs.fit, "official")
    frames: Frames
    if isinstance(reference.source, Tensor):
        frames = reference.source[round(reference.start_s * clip.fps) :]
    else:
        colour = parse_colour(inputs.background)
        video = read_video(
            reference.source,
            start_s=reference.start_s,
            max_frames=needed,
            background=colour,
            hdr=inputs.hdr,
        )
        video.warn_of_rate(clip.fps)
        # Frames at the size of the file are decoded as they are encoded, where none is left out or doubled.
        frames = ClipFrames.of(video) if every == 1 and not placed.lead else video.read()
    # The header of a file may state more frames than it has.
    if len(frames) < needed:
        raise ValueError(f"the reference ends at frame {len(frames)} and {needed} are needed")
    if isinstance(frames, ClipFrames):
        latent = codecs.encode_video(frames.fitted(*size, mode))
    else:
        # The step is that of the LoRA's training: rotary positions are spread by the same factor.
        frames = frames[:needed:every] if every > 1 else placed.frames_to_encode(frames)
        # The encoder takes 8k + 1 frames, which every n-th one of a clip need not be.
        frames = frames[: frames_of(latent_frames_of(len(frames)))]
        latent = placed.latent(codecs.encode_video(fit_image(frames, *size, mode=mode)))
    return GuideFrames(
        latent=latent, frame=placed.frame, strength=reference.strength, scale=scale, time_scale=every
    )


def reference_every(reference: VideoReference, loras: Sequence[Lora]) -> int:
    """Of how many frames of a reference one is used: its own number, else that of the LoRAs.

    Raises ValueError if it is above 1 for a range that does not begin with the clip.
    """
    every = reference.every or _of_loras(loras, "reference_temporal_scale_factor")
    if every > 1 and reference.frame:
        raise ValueError(
            f"a reference of every {every}. frame begins with the clip, and its range at frame "
            f"{reference.frame}: let it begin at 0"
        )
    return every


def reference_scale(reference: VideoReference, loras: Sequence[Lora], clip: ClipPlan) -> int:
    """How many times smaller than ``clip`` a reference is encoded: its own scale, else that of the LoRAs.

    Raises ValueError if the clip's latent rows or columns cannot be divided by this number.
    """
    scale = reference.scale or _of_loras(loras, "reference_downscale_factor")
    if clip.latent_width % scale or clip.latent_height % scale:
        raise ValueError(
            f"a reference {scale} times smaller does not fit {clip.width} x {clip.height}: use a width and "
            f"height that are multiples of {SPATIAL_SCALE * scale}"
        )
    return scale


def _of_loras(loras: Sequence[Lora], name: str) -> int:
    """The largest value that any of ``loras`` has in its attribute ``name``, a factor; 1 without LoRAs."""
    return max((int(getattr(lora, name)) for lora in loras), default=1)


def _with_noise(audio: tuple[Tensor, int], clip: ClipPlan, noise_db: float | None) -> tuple[Tensor, int]:
    """Add noise of ``noise_db`` (RMS, in dB of full scale) to ``audio``, up to the end of ``clip``.

    ``audio`` is (waveform, rate in Hz). If it ends before the clip, the noise continues alone. If
    ``noise_db`` is None, ``audio`` is returned unchanged.
    """
    if noise_db is None:
        return audio
    waveform, rate = audio
    # The noise also fills the silence that is added, so that it does not end before the clip does.
    missing = max(0, math.ceil(clip.seconds * rate) - waveform.shape[1])
    return with_noise_floor(functional.pad(waveform, (0, missing)), noise_db), rate


def _reference_audio(request: Request) -> tuple[Tensor, int]:
    """Read the beginning of the reference audio, as many seconds as the request says.

    Returns (waveform (channels, samples) in [-1, 1], rate in Hz).
    """
    voice = request.inputs.reference_audio
    assert voice.source is not None
    if not isinstance(voice.source, tuple):
        return read_audio(voice.source, duration_s=voice.seconds)
    waveform, rate = voice.source
    return waveform[:, : round(voice.seconds * rate)], rate


def _image_frames(image: ImageSource, background: Colour) -> Tensor:
    """Load an image, or return a clip in memory unchanged: (N, 3, H, W) in [0, 1].

    Transparent pixels are blended with ``background``, RGB in [0, 1].
    """
    # Several frames are a clip that the video begins with, which load_image does not take.
    if isinstance(image, Tensor) and image.ndim == 4 and image.shape[0] > 1:
        return image
    return read_image(image, background=background)

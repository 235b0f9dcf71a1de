"""Converts the values of a request's keywords to the types of its fields, and refuses other values.

Bounds and choices are those of the table of options. Letters: C channels, S samples, N frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from numbers import Integral, Real
from os import PathLike, fspath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..conditioning.inputs import ImageAt, SourceClip, VideoReference
from ..sampling.caching import StepCache
from ..sampling.guidance import Guidance, GuidanceSchedule, Nag
from ..shapes import AUDIO_BINS, AUDIO_CHANNELS, VIDEO_CHANNELS, Snap
from ..text.prompt import PromptEmbeds
from ..transformer.tiles import Tiles
from ..types import AVLatent
from .devices import usable_device
from .flat_options import RequestOptions
from .options import BY_NAME

# The noise levels of 10000 steps, which is the bound of ComfyUI's KSampler.
MAX_SIGMAS = 10_001
MAX_KEYFRAMES = 1000
"""The most keyframes that a run generates next to its clip."""
MAX_STAGE_TILES = 8
"""The most tiles of a stage along one axis."""
MAX_RATE = 768_000
"""The highest sample rate of audio in Hz."""

_MAY_BE_NONE = frozenset(
    name for name, annotation in RequestOptions.__annotations__.items() if "None" in str(annotation)
)


def checked_values(flat: Mapping[str, Any]) -> dict[str, object]:
    """Return the keywords in ``flat`` with each value converted to the type of its field.

    None stays None where the keyword allows it. Raises TypeError for a value of another type and ValueError
    for a value that is out of range; both name the keyword.
    """
    return {name: _checked(name, value) for name, value in flat.items()}


def _checked(name: str, value: Any) -> Any:
    if value is None and name in _MAY_BE_NONE:
        return None
    if name in _READERS:
        return _READERS[name](name, value)
    option = BY_NAME.get(name)
    return value if option is None else option.read(value)


def _snap(name: str, value: Any) -> Snap:
    return value if isinstance(value, Snap) else Snap(BY_NAME[name].read(value))


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name}={value!r:.80} must be True or False")
    return value


def _audio_stage(name: str, value: Any) -> int:
    if isinstance(value, bool) or value not in (1, 2):
        raise ValueError(f"{name}={value!r:.80} must be 1 or 2, the stage that the audio is taken from")
    return int(value)


def _stage_tiles(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or not 1 <= int(value) <= MAX_STAGE_TILES:
        raise ValueError(f"{name}={value!r:.80} must be a whole number from 1 to {MAX_STAGE_TILES}")
    return int(value)


def _noise_device(name: str, value: Any) -> str:
    if not isinstance(value, str | torch.device):
        raise TypeError(f"{name}={value!r:.80} must be text such as 'cpu'")
    try:
        return str(usable_device(value))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _path(name: str, value: str | PathLike[str]) -> str | PathLike[str]:
    if "\0" in str(fspath(value)) or not str(fspath(value)).strip():
        raise ValueError(f"{name}={value!r:.80} is no path: it is empty or holds a NUL")
    return value


def _image(name: str, value: Any) -> Any:
    if isinstance(value, str | PathLike):
        return _path(name, value)
    if isinstance(value, Tensor | np.ndarray | Image.Image):
        return value
    several = ": several images are images=[ImageAt(source=..., frame=...), ...]"
    raise TypeError(
        f"{name} must be one image: a path, a Pillow image, an array or a tensor; got {type(value).__name__}"
        + (several if isinstance(value, Sequence) else "")
    )


def _audio(name: str, value: Any) -> Any:
    """Check the audio of keyword ``name``: a path, or (waveform (channels, samples), sample rate in Hz).

    Returns the path, or (float32 tensor (C, S), rate). Raises TypeError for other types, and ValueError for
    other than 1 or 2 channels, for values that are not finite, and for a rate out of range.
    """
    if isinstance(value, str | PathLike):
        return _path(name, value)
    if not isinstance(value, tuple) or len(value) != 2:
        raise TypeError(
            f"{name} must be a path, or (waveform (C, S) in [-1, 1], sample rate in Hz); got "
            f"{type(value).__name__}"
        )
    waveform, rate = value
    if isinstance(waveform, np.ndarray):
        waveform = torch.from_numpy(np.array(waveform))
    if not isinstance(waveform, Tensor) or not waveform.is_floating_point():
        kind = waveform.dtype if isinstance(waveform, Tensor) else type(waveform).__name__
        raise TypeError(f"{name}: the waveform must be a tensor or array of floats in [-1, 1]; got {kind}")
    shape = tuple(waveform.shape)
    if waveform.ndim != 2 or shape[0] not in (1, 2) or shape[1] < 1:
        hint = ": it is transposed" if waveform.ndim == 2 and shape[1] in (1, 2) else ""
        raise ValueError(f"{name}: the waveform must be (C, S) with 1 or 2 channels; got {shape}{hint}")
    if not bool(waveform.isfinite().all()):
        raise ValueError(f"{name}: the waveform holds NaN or infinite samples")
    if isinstance(rate, bool) or not isinstance(rate, Integral) or not 1 <= int(rate) <= MAX_RATE:
        raise ValueError(f"{name}: the sample rate {rate!r} must be a whole number from 1 to {MAX_RATE} Hz")
    return waveform.float(), int(rate)


def _items(kind: type, example: str, name: str, value: Any) -> tuple[Any, ...]:
    """Convert ``value``, the sequence of the keyword ``name``, to a tuple of items of the class ``kind``.

    ``example`` is an item as text for errors. Raises TypeError if ``value`` is no sequence or an item cannot
    be converted.
    """
    if isinstance(value, str | Mapping | kind) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list of {kind.__name__}, such as [{example}]; got {value!r:.80}")
    # Tuples and, for references, plain videos stand for the values.
    items = tuple(map(getattr(kind, "of", lambda one: one), value))
    for one in items:
        if not isinstance(one, kind):
            raise TypeError(f"{name} holds {type(one).__name__}: write {example} for each")
    return items


def _sigmas(name: str, value: Any) -> Any:
    values = value.tolist() if isinstance(value, Tensor | np.ndarray) else value
    numbers = isinstance(values, Sequence) and not isinstance(values, str)
    if not numbers or not all(isinstance(one, Real) and not isinstance(one, bool) for one in values):
        raise TypeError(f"{name}={value!r:.80} must be a list of numbers, such as [1, 0.725, 0.42, 0]")
    if len(values) > MAX_SIGMAS:
        raise ValueError(f"{name} has {len(values)} noise levels; at most {MAX_SIGMAS} are sampled")
    return values


def _keyframes(name: str, value: Any) -> Any:
    """Check the value of ``generated_keyframes``: a number of keyframes, or a sequence of their frames.

    Returns the number, or the frames as a tuple. Raises TypeError or ValueError.
    """
    if isinstance(value, Integral) and not isinstance(value, bool):
        if not 1 <= int(value) <= MAX_KEYFRAMES:
            raise ValueError(f"{name}={value} must be from 1 to {MAX_KEYFRAMES}, or a list of frames")
        return int(value)
    numbers = isinstance(value, Sequence) and not isinstance(value, str)
    if not numbers or not all(isinstance(one, Integral) and not isinstance(one, bool) for one in value):
        raise TypeError(f"{name}={value!r:.80} must be a number of keyframes, or frames such as [24, 48, -1]")
    return tuple(map(int, value))


def _instance(kinds: type | tuple[type, ...], example: str, name: str, value: Any) -> Any:
    if not isinstance(value, kinds):
        raise TypeError(f"{name}={value!r:.80} must be {example}")
    return value


def _latents(name: str, value: Any) -> AVLatent:
    if name == "latents" and isinstance(value, Tensor):
        # Such as encode_video returns.
        value = AVLatent(value, None)
    if not isinstance(value, AVLatent):
        raise TypeError(f"{name} must be an AVLatent, such as generation.latents; got {type(value).__name__}")
    shapes = (
        ("video", value.video, 5, (VIDEO_CHANNELS,), f"(1, {VIDEO_CHANNELS}, F, H, W)"),
        ("audio", value.audio, 4, (AUDIO_CHANNELS,), f"(1, {AUDIO_CHANNELS}, T, {AUDIO_BINS})"),
    )
    for stream, latent, axes, channels, words in shapes:
        if latent is None:
            continue
        shape = tuple(latent.shape)
        fits = len(shape) == axes and shape[0] == 1 and shape[1] in channels and 0 not in shape
        if not fits or (stream == "audio" and shape[3] != AUDIO_BINS):
            one = ": one clip a call" if len(shape) == axes and shape[0] > 1 else ""
            raise ValueError(f"{name}: the {stream} latent must be {words}; got {shape}{one}")
        if not bool(latent.isfinite().all()):
            raise ValueError(f"{name}: the {stream} latent holds NaN or infinite values")
    return value


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "snap": _snap,
    "video": _switch,
    "image": _image,
    "images": partial(_items, ImageAt, "ImageAt(source='a.png', frame=-1)"),
    "references": partial(_items, VideoReference, "VideoReference(source='depth.mp4')"),
    "audio": _audio,
    "reference_audio": _audio,
    "latents": _latents,
    "noise": _latents,
    "prompt_embeds": partial(_instance, PromptEmbeds, "what encode_prompt returns"),
    "source_clip": partial(_instance, SourceClip, "a SourceClip"),
    "sigmas": _sigmas,
    "stage2_sigmas": _sigmas,
    "guidance": partial(_instance, (Guidance, GuidanceSchedule), "a Guidance, such as Guidance(...)"),
    "nag": partial(_instance, Nag, "a Nag, such as Nag(scale=11)"),
    "cache": partial(_instance, StepCache, "a StepCache, such as StepCache(threshold=0.1)"),
    "tiles": partial(_instance, Tiles, "a Tiles, such as Tiles(columns=2, rows=1)"),
    "generated_keyframes": _keyframes,
    "noise_device": _noise_device,
    "audio_stage": _audio_stage,
    "stage2_tiles": _stage_tiles,
}

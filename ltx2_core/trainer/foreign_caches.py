"""Clips that other trainers encoded: the official trainer's folders of .pt files, and DiffSynth's .pth files.

Letters: C channels, F H W latent frames, rows and columns, T audio latent frames, S text tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..shapes import AUDIO_BINS, AUDIO_CHANNELS, VIDEO_CHANNELS
from ..storage.torch_file import read_torch_file
from ..types import TextContext, TextFeatures

_FPS = 24.0
"""Where a file has no frame rate, as the trainers take it."""
_FOLDERS = {
    "video": "latents",
    "audio": "audio_latents",
    "reference_video": "reference_latents",
    "reference_audio": "reference_audio_latents",
    "video_mask": "video_masks",
    "audio_mask": "audio_masks",
}
"""The official folder of each kind of latents."""
_AXES = {"video": 4, "reference_video": 4, "audio": 3, "reference_audio": 3, "video_mask": 3, "audio_mask": 1}


@dataclass(frozen=True, kw_only=True)
class ForeignClip:
    """A clip that another trainer encoded.

    ``name`` is its place in that cache, ``files`` where it was read from. ``latents`` have the names of an
    encoded dataset, without a batch axis. ``text`` (B = 1) is before the connectors (features) or after them
    (context).
    """

    name: str
    files: tuple[Path, ...]
    latents: Mapping[str, Tensor]
    fps: float
    text: TextFeatures | TextContext


def foreign_clips(folder: Path) -> tuple[int, Iterator[ForeignClip]]:
    """The number of clips in a cache of another trainer, and the clips, which are read one by one.

    Raises ValueError if ``folder`` is none, for clips without text, and for files with other contents.
    """
    root = folder / ".precomputed" if (folder / ".precomputed").is_dir() else folder
    if (root / "conditions").is_dir():
        names = _official_names(root)
        return len(names), (_official(root, name) for name in names)
    files = sorted(folder.rglob("*.pth"))
    if not files:
        _refuse_others(folder)
        raise ValueError(
            f"{folder} is no cache of the official trainer (folders latents and conditions with .pt files) "
            "or of DiffSynth (.pth files)"
        )
    return len(files), (_diffsynth(path, path.relative_to(folder).as_posix()) for path in files)


def _refuse_others(folder: Path) -> None:
    """Raise ValueError that names the trainer of a cache which is not read."""
    for pattern, trainer in (
        ("*_ltx2*.safetensors", "musubi-tuner"),
        ("_latent_cache/*.safetensors", "ai-toolkit"),
    ):
        found = next(iter(sorted(folder.rglob(pattern))), None)
        if found is not None:
            raise ValueError(
                f"{folder} is a cache of {trainer} ({found.name}), which is not read: encode its clips again "
                "with ltx2 dataset CLIPS --out"
            )


def _official_names(root: Path) -> list[str]:
    """The names of all clips, relative to their folders and without an extension."""
    found = {
        path.relative_to(root / part).with_suffix("").as_posix()
        for part in ("latents", "audio_latents")
        for path in (root / part).rglob("*.pt")
    }
    if not found:
        raise ValueError(f"{root} has no .pt files in latents or audio_latents")
    lacking = sorted(name for name in found if not _text_file(root, name).is_file())
    if lacking:
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        raise ValueError(f"{root / 'conditions'} has no text for {', '.join(lacking[:5])}{more}")
    return sorted(found)


def _text_file(root: Path, name: str) -> Path:
    """The text of a clip; in an old cache ``latent_1.pt`` has ``condition_1.pt``."""
    before, slash, last = name.rpartition("/")
    old = root / "conditions" / f"{before}{slash}{last.replace('latent_', 'condition_', 1)}.pt"
    own = root / "conditions" / f"{name}.pt"
    return old if old.is_file() and not own.is_file() else own


def _official(root: Path, name: str) -> ForeignClip:
    latents: dict[str, Tensor] = {}
    files, fps = [], _FPS
    for kind, part in _FOLDERS.items():
        path = root / part / f"{name}.pt"
        if not path.is_file():
            continue
        values = _dict(path, read_torch_file(path))
        tensor = _tensor(path, values, "mask" if kind.endswith("mask") else "latents")
        if tensor.ndim == 2 and kind in ("video", "reference_video"):
            # Older caches hold rows of tokens.
            try:
                sizes = {letter: int(values[key]) for letter, key in _SIZES.items()}
                tensor = rearrange(tensor, "(f h w) c -> c f h w", **sizes)
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                raise ValueError(
                    f"{path}: latents {tuple(tensor.shape)} need num_frames, height and width that fit them"
                ) from error
        latents[kind] = _checked(path, kind, tensor)
        files.append(path)
        if kind == "video" and isinstance(values.get("fps"), int | float) and values["fps"] > 0:
            fps = float(values["fps"])
    _check_together(root / name, latents)
    path = _text_file(root, name)
    values = _dict(path, read_torch_file(path))
    video = _tensor(
        path, values, "video_prompt_embeds" if "video_prompt_embeds" in values else "prompt_embeds"
    )
    # Without a text of its own the audio has that of the video, as in LTX-2.0.
    own = "audio_prompt_embeds" in values
    audio = _tensor(path, values, "audio_prompt_embeds") if own else video
    mask = _tensor(path, values, "prompt_attention_mask")
    if video.ndim != 2 or audio.ndim != 2 or not len(video) == len(audio) == mask.numel():
        shapes = ", ".join(str(tuple(one.shape)) for one in (video, audio, mask))
        raise ValueError(
            f"{path}: text of shapes {shapes}, which must be (tokens, width), twice, and (tokens)"
        )
    states = video[None]
    text = TextFeatures(states, audio[None] if own else states, mask.reshape(1, -1))
    return ForeignClip(name=name, files=(*files, path), latents=latents, fps=fps, text=text)


_SIZES = {"f": "num_frames", "h": "height", "w": "width"}


def _diffsynth(path: Path, name: str) -> ForeignClip:
    parts = read_torch_file(path)
    if not isinstance(parts, tuple | list) or not all(isinstance(part, dict) for part in parts[:2]):
        raise ValueError(f"{path}: it is no cache of DiffSynth, which holds a tuple of dicts")
    values = {name: value for part in parts[:2] for name, value in part.items()}
    latents = {}
    for kind, key in (("video", "input_latents"), ("audio", "audio_input_latents")):
        if values.get(key) is not None:
            latents[kind] = _checked(path, kind, _only(path, values, key))
    if not latents:
        raise ValueError(f"{path}: it has neither input_latents nor audio_input_latents")
    references = values.get("in_context_video_latents")
    if isinstance(references, Tensor):
        references = [references]
    if isinstance(references, list | tuple) and references:
        if len(references) > 1:
            raise ValueError(f"{path}: it has {len(references)} references, and one can be trained")
        one = _only(path, {"in_context_video_latents": references[0]}, "in_context_video_latents")
        latents["reference_video"] = _checked(path, "reference_video", one)
    _check_together(path, latents)
    rate = values.get("frame_rate")
    video, audio = (_only(path, values, name)[None] for name in ("video_context", "audio_context"))
    context = TextContext(video, audio)
    return ForeignClip(
        name=name.removesuffix(".pth"),
        files=(path,),
        latents=latents,
        fps=float(rate) if isinstance(rate, int | float) and rate > 0 else _FPS,
        text=context,
    )


def _dict(path: Path, values: Any) -> Mapping[str, Any]:
    if not isinstance(values, dict):
        raise ValueError(f"{path}: it holds a {type(values).__name__} and no dict of tensors")
    return values


def _tensor(path: Path, values: Mapping[str, Any], key: str) -> Tensor:
    if not isinstance(values.get(key), Tensor):
        there = ", ".join(str(name) for name, value in values.items() if isinstance(value, Tensor))
        raise ValueError(f"{path}: it has no tensor {key}; its tensors are {there or 'none'}")
    tensor: Tensor = values[key]
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise ValueError(f"{path}: {key} has values that are not finite")
    return tensor


def _only(path: Path, values: Mapping[str, Any], key: str) -> Tensor:
    """The tensor ``key`` without its batch axis; raises ValueError unless it is that of one clip."""
    tensor = _tensor(path, values, key)
    if tensor.ndim < 2 or len(tensor) != 1:
        raise ValueError(f"{path}: {key} has the shape {tuple(tensor.shape)}, and one clip has (1, ...)")
    return tensor[0]


def _check_together(clip: Path, latents: Mapping[str, Tensor]) -> None:
    """Raise ValueError, which names ``clip``, for references and masks that do not fit its latents."""
    for kind in latents:
        stream = kind.rpartition("_")[2] if kind.startswith("reference") else kind.partition("_")[0]
        if stream not in latents:
            raise ValueError(f"{clip}: it has {kind} ({_FOLDERS[kind]}) and no {stream} ({_FOLDERS[stream]})")
    for stream, axes in (("video", (1, 2, 3)), ("audio", (1,))):
        mask = latents.get(f"{stream}_mask")
        if mask is not None and mask.shape != (wanted := tuple(latents[stream].shape[axis] for axis in axes)):
            raise ValueError(
                f"{clip}: {stream}_mask has the shape {tuple(mask.shape)} and not {wanted} as the latents"
            )


def _checked(path: Path, kind: str, tensor: Tensor) -> Tensor:
    """``tensor`` as latents or a mask of ``kind``; raises ValueError if it does not have their shape."""
    shape = tuple(tensor.shape)
    wanted = "(frames, rows, columns)" if kind == "video_mask" else "(frames)"
    right = len(shape) == _AXES[kind]
    if kind.endswith("video"):
        wanted = f"({VIDEO_CHANNELS}, frames, rows, columns)"
        right = right and shape[0] == VIDEO_CHANNELS
    elif kind.endswith("audio"):
        wanted = f"({AUDIO_CHANNELS}, frames, {AUDIO_BINS})"
        right = right and (shape[0], shape[2]) == (AUDIO_CHANNELS, AUDIO_BINS)
    if not right or 0 in shape:
        raise ValueError(f"{path}: {kind} has the shape {shape} and not {wanted}")
    return tensor if tensor.is_floating_point() else tensor.to(torch.float32)

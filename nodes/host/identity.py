"""Identifies ComfyUI's models by digests, so that a long clip is not resumed with other models."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...ltx2_core.storage.identity import identity, tensor_identity
from .values import Clip, Model, Vae

SAMPLES = 1024
"""Values of a tensor that are read: other weights differ in nearly every one."""


def model_identity(
    *, model: Model, text_encoder: Clip, video_vae: Vae, audio_vae: Vae | None
) -> dict[str, str | None]:
    """Digests that identify four models with their LoRAs: 32 hexadecimal digits each.

    The keys are "model", "clip", "video_vae" and "audio_vae" for weights and dtype of these models, and
    "model LoRAs", "clip LoRAs" and so on for the LoRAs of each. A digest is None without this model or
    without LoRAs. Weights from this pack's loaders are identified by their files; of other weights, and of
    LoRAs, some values are read.
    """
    patchers = {
        "model": model,
        "clip": text_encoder.patcher,
        "video_vae": video_vae.patcher,
        "audio_vae": None if audio_vae is None else audio_vae.patcher,
    }
    found: dict[str, str | None] = {}
    for name, patcher in patchers.items():
        found[name] = None if patcher is None else _weights(patcher)
        found[f"{name} LoRAs"] = None if patcher is None or not patcher.patches else _digest(patcher.patches)
    return found


def files_of(patcher: Any) -> list[Path]:
    """The files that a MODEL, or the patcher of another model, was loaded from; empty if it does not say."""
    words = _words(getattr(patcher, "cached_patcher_init", None))
    return [path for path in map(Path, words) if path.is_file()]


def _weights(patcher: Any) -> str:
    files = files_of(patcher)
    if files:
        return _digest([identity(files), str(patcher.model_dtype())])
    # Weights that the host has merged a LoRA into are read as they were before.
    before = {key: getattr(saved, "weight", saved) for key, saved in patcher.backup.items()}
    return _digest({**patcher.model.state_dict(), **before})


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _words(item)


def _digest(values: Any) -> str:
    digest = sha256()
    for part in _parts(values):
        digest.update(part.encode())
    return digest.hexdigest()[:32]


def _parts(value: Any) -> Iterator[str]:
    """Yield text for each value within ``value`` (nested weights or patches), in a fixed order, for a digest.

    Of a tensor about 1024 values are read. Patches that are objects of ComfyUI are read by their attribute
    ``weights``.
    """
    if isinstance(value, Tensor):
        flat = value.detach().reshape(-1)
        yield f"{tuple(value.shape)}"
        yield tensor_identity(flat[:: max(1, flat.numel() // SAMPLES)].float())
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield f"{key}:"
            yield from _parts(value[key])
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _parts(item)
    elif hasattr(value, "weights"):
        yield type(value).__name__
        yield from _parts(value.weights)
    elif isinstance(value, str | int | float | bool | torch.dtype | None):
        yield f"{value!r};"

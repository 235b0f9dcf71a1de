"""LoRA files of any dialect onto a MODEL, with a report instead of the host's silence."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import torch

from ...ltx2_core.loading.detect import Component
from ...ltx2_core.loading.lora import open_lora

NETWORK = "diffusion_model."
log = logging.getLogger(__name__)

COMPONENTS = (Component.TRANSFORMER, Component.TEXT_CONNECTORS)
"""What the host's MODEL holds."""


def apply_lora(
    model: Any, path: str | Path, strength: float, *, audio_strength: float | None = None
) -> tuple[Any, str]:
    """A clone of ``model`` with the LoRA added, and what matched in words.

    The file's metadata goes with the clone, where the host's IC-LoRA node looks for it. Raises ValueError if
    the file is no LoRA, or if nothing in it fits this model.
    """
    lora = open_lora(path, strength, audio_strength=audio_strength)
    shapes = _shapes(model)
    report = lora.report_all(dict.fromkeys(COMPONENTS, shapes))
    if not report.matched:
        raise ValueError(f"{report}\nThis LoRA was made for another model or another LTX-2 generation")
    log.log(logging.INFO if report.is_clean else logging.WARNING, "%s", report)
    stored, metadata = comfy.utils.load_torch_file(str(path), safe_load=True, return_metadata=True)
    # The host knows one strength for all layers, so two are written into the alphas.
    one = lora.video_strength == lora.audio_strength == lora.strength
    tensors = {}
    for component in COMPONENTS:
        for own, layer in lora.pairs(component, shapes).items():
            factor = 1.0 if one else lora.strength_of(component, own)
            rank = stored[layer.a].shape[0]
            alpha = float(stored[layer.alpha]) if layer.alpha else layer.scale * rank
            tensors[f"{NETWORK}{own}.lora_A.weight"] = stored[layer.a]
            tensors[f"{NETWORK}{own}.lora_B.weight"] = stored[layer.b]
            tensors[f"{NETWORK}{own}.alpha"] = torch.tensor(alpha * factor)
    patched, _ = comfy.sd.load_lora_for_models(model, None, tensors, strength if one else 1.0, 0)
    if metadata and hasattr(patched, "set_attachments"):
        patched.set_attachments("lora_metadata", metadata)
    return patched, str(report)


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Of the network's tensors as they compute; quantised weights have other shapes where they are stored."""
    shapes = {
        name.removeprefix(NETWORK): tuple(tensor.shape)
        for name, tensor in model.model.state_dict().items()
        if name.startswith(NETWORK)
    }
    for name, layer in model.model.diffusion_model.named_modules():
        if hasattr(layer, "in_features") and hasattr(layer, "out_features"):
            shapes[f"{name}.weight"] = (layer.out_features, layer.in_features)
    return shapes

"""LoRA files of any dialect onto a MODEL, with a report instead of the host's silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils

from ...ltx2_core.loading.detect import Component
from ...ltx2_core.loading.lora import Lora, LoraReport, open_lora, target_of

NETWORK = "diffusion_model."


def apply_lora(model: Any, path: str | Path, strength: float) -> tuple[Any, str]:
    """A clone of ``model`` with the LoRA added, and what matched in words.

    The file's metadata goes with the clone, where the host's IC-LoRA node looks for it. Raises ValueError if
    the file is no LoRA, or if nothing in it fits this model.
    """
    lora = open_lora(path, strength)
    shapes = {
        name.removeprefix(NETWORK): tuple(tensor.shape)
        for name, tensor in model.model.state_dict().items()
        if name.startswith(NETWORK)
    }
    reports = [
        lora.report(component, shapes) for component in (Component.TRANSFORMER, Component.TEXT_CONNECTORS)
    ]
    fitting = {name for report in reports for name in report.matched}
    text = _words(lora, reports)
    if not fitting:
        raise ValueError(f"{text}. This LoRA was made for another model or another LTX-2 generation")
    stored, metadata = comfy.utils.load_torch_file(str(path), safe_load=True, return_metadata=True)
    tensors = {}
    for module, layer in lora.layers.items():
        own = target_of(module)[1]
        if own in fitting:
            tensors[f"{NETWORK}{own}.lora_A.weight"] = stored[layer.a]
            tensors[f"{NETWORK}{own}.lora_B.weight"] = stored[layer.b]
            if layer.alpha:
                tensors[f"{NETWORK}{own}.alpha"] = stored[layer.alpha]
    patched, _ = comfy.sd.load_lora_for_models(model, None, tensors, strength, 0)
    if metadata and hasattr(patched, "set_attachments"):
        patched.set_attachments("lora_metadata", metadata)
    return patched, text


def _words(lora: Lora, reports: list[LoraReport]) -> str:
    matched = sum(len(report.matched) for report in reports)
    text = f"{lora.path.name}: {matched} of {len(lora.layers)} layers at strength {lora.strength:g}"
    for what, names in (
        ("not in this model", [name for report in reports for name in report.unmatched]),
        ("of another shape", [name for report in reports for name in report.shape_mismatched]),
    ):
        if names:
            text += f"; {len(names)} {what}: {', '.join(names[:3])}"
    return text

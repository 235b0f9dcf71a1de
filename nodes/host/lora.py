"""LoRA files of any naming style on a MODEL and a CLIP, with a report on the layers that match."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import comfy.lora
import comfy.utils
import torch
from torch import Tensor

from ...ltx2_core.loading.detect import Component
from ...ltx2_core.loading.lora import Lora, open_lora
from .patcher import Patcher
from .values import Clip, Model

NETWORK = "diffusion_model."
ATTACHMENT = "lora_metadata"
"""The attachment in which the host's own nodes read the metadata of the LoRAs on a MODEL."""

IN_MODEL = (Component.TRANSFORMER, Component.TEXT_CONNECTORS)
"""What the host's MODEL holds; the text projection is in the CLIP."""

_PROJECTION = re.compile(
    r"(?:^|\.)(?:((?:video_|audio_)?aggregate_embed)|text_embedding_projection)\.weight$"
)
log = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class AppliedLora:
    """Clones of the MODEL and the CLIP with a LoRA, and a report on the layers that match."""

    model: Model
    clip: Clip | None
    report: str
    parameters: dict[str, int]
    """The factors of an IC-LoRA's reference, under their names in the file's metadata."""


def apply_lora(
    model: Model,
    path: str | Path,
    strength: float,
    *,
    audio_strength: float | None = None,
    clip: Clip | None = None,
) -> AppliedLora:
    """Add a LoRA to a clone of ``model``, and to the text projection of a clone of ``clip``.

    The file's metadata is attached to the MODEL for the host's IC-LoRA node; keys that it lacks have the
    values of earlier LoRAs. Raises ValueError if the file is no LoRA, or if no layer of it matches.
    """
    lora = open_lora(path, strength, audio_strength=audio_strength)
    shapes, projection = _model_shapes(model), _projection_names(clip)
    parts: dict[Component, Shapes] = dict.fromkeys(IN_MODEL, shapes)
    if clip is not None:
        clip_shapes = {key: tuple(t.shape) for key, t in clip.patcher.model.state_dict().items()}
        parts[Component.TEXT_PROJECTION] = {
            f"{own}.weight": clip_shapes[key] for own, key in projection.items()
        }
    report = lora.report_all(parts)
    if not report.matched:
        raise ValueError(f"{report}\nThis LoRA was made for another model or another LTX-2 generation")
    log.log(logging.INFO if report.is_clean else logging.WARNING, "%s", report)
    text = str(report)
    if clip is None and Component.TEXT_PROJECTION in lora.components:
        text += "\n  it also changes how prompts are encoded: connect clip, and encode with the clip that "
        "comes out"
    stored, metadata = comfy.utils.load_torch_file(str(lora.path), safe_load=True, return_metadata=True)
    patched = model.clone()
    for component in IN_MODEL:
        names = {own: f"{NETWORK}{own}.weight" for own in lora.pairs(component, shapes)}
        _add(patched, lora, component, names, shapes, stored)
    if metadata:
        patched.set_attachments(ATTACHMENT, {**(patched.get_attachment(ATTACHMENT) or {}), **metadata})
    if clip is not None:
        clip = clip.clone()
        _add(
            clip.patcher,
            lora,
            Component.TEXT_PROJECTION,
            projection,
            parts[Component.TEXT_PROJECTION],
            stored,
        )
    parameters = {
        "reference_downscale_factor": lora.reference_downscale_factor,
        "reference_temporal_scale_factor": lora.reference_temporal_scale_factor,
    }
    return AppliedLora(patched, clip, text, parameters)


def _add(
    patcher: Patcher,
    lora: Lora,
    component: Component,
    names: Mapping[str, str],
    shapes: Shapes,
    stored: Mapping[str, Tensor],
) -> None:
    """Add the layers of one component to ``patcher``; ``names`` maps the component's names to the host's."""
    # The host has one strength for all layers, so two different ones are multiplied into the alphas.
    uniform = lora.video_strength == lora.audio_strength == lora.strength
    tensors: dict[str, Tensor] = {}
    for own, layer in lora.pairs(component, shapes).items():
        a, b = stored[layer.a], stored[layer.b]
        alpha = float(stored[layer.alpha]) if layer.alpha else layer.scale * a.shape[0]
        factor = 1.0 if uniform else lora.strength_of(own)
        tensors[f"{own}.lora_A.weight"], tensors[f"{own}.lora_B.weight"] = a, b
        tensors[f"{own}.alpha"] = torch.tensor(alpha * factor)
    patches = comfy.lora.load_lora(tensors, dict(names))
    patcher.add_patches(patches, lora.strength if uniform else 1.0)


def _projection_names(clip: Clip | None) -> dict[str, str]:
    """Names of the text projection's layers -> names of their weights in a CLIP, ours or the host's."""
    names = () if clip is None else clip.patcher.model.state_dict()
    matches = ((_PROJECTION.search(name), name) for name in names)
    return {match[1] or "aggregate_embed": name for match, name in matches if match}


def _model_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Shapes of the network's tensors in computation; quantised weights are stored in other shapes."""
    shapes = {
        name.removeprefix(NETWORK): tuple(tensor.shape)
        for name, tensor in model.model.state_dict().items()
        if name.startswith(NETWORK)
    }
    for name, layer in model.model.diffusion_model.named_modules():
        if hasattr(layer, "in_features") and hasattr(layer, "out_features"):
            shapes[f"{name}.weight"] = (layer.out_features, layer.in_features)
    return shapes

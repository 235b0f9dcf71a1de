"""Adds LoRA files of any naming style to a MODEL and a CLIP, with a report on the layers that match."""

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
from ...ltx2_core.loading.lora import REFERENCE_KEYS, STACKED, Lora, open_lora
from ...ltx2_core.loading.lora_dialects import LoraLayer
from ...ltx2_core.loading.lora_kinds import change, rank_of
from ...ltx2_core.storage.finite import check_finite
from .patcher import Patcher
from .values import Clip, Model

NETWORK = "diffusion_model."
ATTACHMENT = "lora_metadata"
"""The attachment of a MODEL from which ComfyUI's own nodes read the metadata of its LoRAs."""

IN_MODEL = (Component.TRANSFORMER, Component.TEXT_CONNECTORS)
"""The components that ComfyUI's MODEL holds; the text projection is in the CLIP."""

_PROJECTION = re.compile(
    r"(?:^|\.)(?:((?:video_|audio_)?aggregate_embed)|text_embedding_projection)\.weight$"
)
log = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class AppliedLora:
    """Clones of a MODEL and a CLIP to which a LoRA was added, and a report on the layers that match.

    ``clip`` is None if no CLIP was connected. ``parameters`` are the factors by which the reference of an
    IC-LoRA is smaller than the clip, by the names ``reference_downscale_factor`` (width and height) and
    ``reference_temporal_scale_factor`` (frames), and for an HDR IC-LoRA its log codes, by ``hdr_transform``.
    """

    model: Model
    clip: Clip | None
    report: str
    parameters: dict[str, object]
    """The factors of an IC-LoRA's reference, under their names in the file's metadata, and the log codes of
    an HDR IC-LoRA under ``hdr_transform``."""


def apply_lora(
    model: Model,
    path: str | Path,
    strength: float,
    *,
    audio_strength: float | None = None,
    clip: Clip | None = None,
) -> AppliedLora:
    """Add a LoRA to a clone of ``model``, and to the text projection of a clone of ``clip``, if there is one.

    ``strength`` multiplies the LoRA's change; ``audio_strength``, where it is not None, does so in layers of
    the audio. The file's metadata is attached to the MODEL for ComfyUI's IC-LoRA node; for keys that the file
    lacks, the values of LoRAs that were added before remain. Raises ValueError if the file is no LoRA, or if
    no layer of it matches.
    """
    # The library's reader is used for its dialects; the host's own skips names that it does not recognise.
    lora = open_lora(path, strength, audio_strength=audio_strength)
    shapes, projection = _model_shapes(model), _projection_names(clip)
    parts: dict[Component, Shapes] = dict.fromkeys(IN_MODEL, shapes)
    if clip is not None:
        clip_shapes = {key: tuple(t.shape) for key, t in clip.patcher.model.state_dict().items()}
        parts[Component.TEXT_PROJECTION] = {
            f"{own}.weight": clip_shapes[key] for own, key in projection.items()
        }
    report = lora.report_all(parts)
    # A LoRA without any match would leave the result unchanged without a word.
    if not report.matched:
        raise ValueError(f"{report}\nThis LoRA was made for another model or another LTX-2 generation")
    log.log(logging.INFO if report.is_clean else logging.WARNING, "%s", report)
    text = str(report)
    # The MODEL does not hold this projection, so without a CLIP this part of the LoRA has no effect.
    if clip is None and Component.TEXT_PROJECTION in lora.components:
        text += (
            "\n  it also changes how prompts are encoded: connect clip, and encode with the clip that comes "
            "out"
        )
    stored, metadata = comfy.utils.load_torch_file(str(lora.path), safe_load=True, return_metadata=True)
    # The MODEL of the graph stays without this LoRA; a clone shares its weights.
    patched = model.clone()
    for component in IN_MODEL:
        names = {own: f"{NETWORK}{own}.weight" for own in lora.pairs(component, shapes)}
        _add(patched, lora, component, names, shapes, stored)
    if metadata and _attach(patched, lora, metadata):
        text += f"\n  {STACKED}"
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
    parameters: dict[str, object] = {
        "reference_downscale_factor": lora.reference_downscale_factor,
        "reference_temporal_scale_factor": lora.reference_temporal_scale_factor,
    }
    if lora.hdr_curve is not None:
        parameters["hdr_transform"] = lora.hdr_curve
    return AppliedLora(patched, clip, text, parameters)


def _attach(model: Model, lora: Lora, metadata: Mapping[str, str]) -> bool:
    """Attach ``metadata``, that of a LoRA's file, to a MODEL.

    Keys that earlier LoRAs attached remain, except those that ``metadata`` has too. Returns whether the LoRA
    is an IC-LoRA that replaces the reference settings of an earlier one, which is logged too.
    """
    earlier = model.get_attachment(ATTACHMENT) or {}
    # The metadata has room for one reference, so the factors of a later IC-LoRA replace those of an earlier
    # one.
    stacked = lora.is_ic_lora and any(key in earlier for key in REFERENCE_KEYS)
    if stacked:
        log.warning("%s: %s", lora.path.name, STACKED)
    model.set_attachments(ATTACHMENT, {**earlier, **metadata})
    return stacked


def _add(
    patcher: Patcher,
    lora: Lora,
    component: Component,
    names: Mapping[str, str],
    shapes: Shapes,
    stored: Mapping[str, Tensor],
) -> None:
    """Add the LoRA's layers for one component, such as the transformer, to ``patcher``.

    ``names`` maps the component's module names to ComfyUI's parameter names, ``shapes`` has the shapes of the
    component's tensors by name, and ``stored`` the tensors of the LoRA file.
    """
    # The host has one strength for all layers of a set of patches, so layers are grouped by theirs.
    groups: dict[float, dict[str, Tensor]] = {}
    for own, layer in lora.pairs(component, shapes).items():
        strength = lora.strength_of(own)
        groups.setdefault(strength, {}).update(_tensors(lora, own, layer, stored))
    for strength, tensors in groups.items():
        patcher.add_patches(comfy.lora.load_lora(tensors, dict(names)), strength)


def _tensors(lora: Lora, own: str, layer: LoraLayer, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of ``layer``, the LoRA's layer for module ``own``, under the names that ComfyUI reads.

    ``stored`` are the tensors of the LoRA file. Raises ValueError for values that are NaN or infinite, and
    for a DoRA in PEFT's form, which ComfyUI cannot compute.
    """
    for name in layer.names:
        # A single NaN would spread through the merged weight to every value of the clip.
        check_finite(stored[name], name, lora.path)
    if layer.factors:
        tensors = {f"{own}.{role}": stored[name] for role, name in layer.factors.items()}
        first = next(iter(tensors))
        rank = rank_of({role: tuple(stored[name].shape) for role, name in layer.factors.items()})
    else:
        first, rank = f"{own}.lora_B.weight", stored[layer.a].shape[0]
        tensors = {f"{own}.lora_A.weight": stored[layer.a], first: stored[layer.b]}
    # The host divides alpha by the rank, so a scale without alpha is expressed as one.
    scale = float(stored[layer.alpha]) / rank if layer.alpha and rank else layer.scale
    if "lokr_t2" in layer.factors:
        # The host fails on Tucker's core of a linear layer, so the change is passed as one whole factor.
        whole = change({role: stored[name] for role, name in layer.factors.items()}) * scale
        tensors = {f"{own}.lokr_w1": torch.ones(1, 1), f"{own}.lokr_w2": whole.flatten(1)}
    elif rank is None:
        # The host reads no alpha here.
        tensors[first] = tensors[first] * scale if scale != 1 else tensors[first]
    else:
        tensors[f"{own}.alpha"] = stored[layer.alpha] if layer.alpha else torch.tensor(scale * rank)
    if layer.magnitude is not None:
        if layer.magnitude.merged_norm:
            raise ValueError(
                f"{lora.path} is a DoRA in PEFT's form ({layer.magnitude.name}), which ComfyUI cannot merge; "
                "use one with dora_scale, or the library, which merges both"
            )
        check_finite(stored[layer.magnitude.name], layer.magnitude.name, lora.path)
        magnitude = stored[layer.magnitude.name]
        # The host divides by a norm (outputs, 1), against which a vector would broadcast wrongly.
        tensors[f"{own}.dora_scale"] = magnitude[:, None] if magnitude.ndim == 1 else magnitude
    return tensors


def _projection_names(clip: Clip | None) -> dict[str, str]:
    """Map the layers of the text projection to the names of their weights in a CLIP; empty without a CLIP.

    The CLIP may be from this pack's loader or from ComfyUI's.
    """
    names = () if clip is None else clip.patcher.model.state_dict()
    matches = ((_PROJECTION.search(name), name) for name in names)
    return {match[1] or "aggregate_embed": name for match, name in matches if match}


def _model_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """The shapes that the tensors of a MODEL's network have when they are used in computation, by name.

    Quantised weights are stored in other shapes.
    """
    shapes = {
        name.removeprefix(NETWORK): tuple(tensor.shape)
        for name, tensor in model.model.state_dict().items()
        if name.startswith(NETWORK)
    }
    for name, layer in model.model.diffusion_model.named_modules():
        # Packed formats store two values a byte, so the shape is read from the layer.
        if hasattr(layer, "in_features") and hasattr(layer, "out_features"):
            shapes[f"{name}.weight"] = (layer.out_features, layer.in_features)
    return shapes

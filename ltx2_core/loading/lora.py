"""LoRA files: low-rank changes W + strength * scale * (B @ A), added while a component is loaded.

Letters: R rank, I inputs, O outputs; A (R, I), B (O, R).
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from .detect import Component
from .header import Header, read_header

log = logging.getLogger(__name__)

MODULE_PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.")
"""What trainers put in front of the official module names, removed one by one; bare names are fine too."""

ROLES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\.(lora_A|lora_down)(\.default)?\.weight$"), "A"),
    (re.compile(r"\.(lora_B|lora_up)(\.default)?\.weight$"), "B"),
    (re.compile(r"\.alpha$"), "alpha"),
)
"""How the dialects end the name of each tensor. A new dialect is a new row here or in MODULE_PREFIXES."""

_CONNECTORS = ("video_embeddings_connector.", "audio_embeddings_connector.")
_PROJECTION = "text_embedding_projection."


@dataclass(frozen=True)
class LoraLayer:
    """The tensor names of one module's change; without ``alpha`` the scale is 1."""

    a: str
    b: str
    alpha: str | None = None


@dataclass(frozen=True)
class LoraReport:
    """What a LoRA did to one component; entries are official module names."""

    file: str
    strength: float
    component: Component
    matched: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    """Addressed to this component, which has no such module."""
    shape_mismatched: tuple[str, ...] = ()
    """Modules that exist with other widths, each with both shapes."""
    elsewhere: tuple[str, ...] = ()
    """Addressed to another component."""

    def __str__(self) -> str:
        text = f"{self.file}: {len(self.matched)} layers of the {self.component}, strength {self.strength:g}"
        for names, what in (
            (self.unmatched, "not in this model"),
            (self.shape_mismatched, "of another shape"),
        ):
            if names:
                text += f"; {len(names)} {what}: {_few(names)}"
        if self.elsewhere:
            text += f"; {len(self.elsewhere)} for other components"
        return text


@dataclass(frozen=True)
class Lora:
    """An opened LoRA file and the strength to use it with; no tensor has been read yet."""

    header: Header
    layers: Mapping[str, LoraLayer]
    strength: float = 1.0

    @property
    def path(self) -> Path:
        return self.header.path

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self.header.metadata

    @property
    def reference_downscale_factor(self) -> int:
        """An IC-LoRA's reference video has 1/n of the output's width and height; 1 for any other LoRA."""
        return self._factor("reference_downscale_factor")

    @property
    def reference_temporal_scale_factor(self) -> int:
        """The reference video of an IC-LoRA has every n-th frame; 1 for any other LoRA."""
        return self._factor("reference_temporal_scale_factor")

    @property
    def ranks(self) -> tuple[int, ...]:
        """The different ranks in this file, ascending."""
        return tuple(sorted({self.header.tensors[layer.a].shape[0] for layer in self.layers.values()}))

    def report(self, component: Component, shapes: Mapping[str, tuple[int, ...]]) -> LoraReport:
        """Compare with the tensors (official name -> shape) of a component; reads no data."""
        matched, unmatched, mismatched, elsewhere = [], [], [], []
        for module, layer in self.layers.items():
            target, own = target_of(module)
            if target is not component:
                elsewhere.append(module)
            elif (shape := shapes.get(f"{own}.weight")) is None:
                unmatched.append(own)
            elif (change := self._shape(layer)) != shape:
                mismatched.append(f"{own} (LoRA {change}, model {shape})")
            else:
                matched.append(own)
        return LoraReport(
            self.path.name,
            self.strength,
            component,
            *(tuple(names) for names in (matched, unmatched, mismatched, elsewhere)),
        )

    def _shape(self, layer: LoraLayer) -> tuple[int, ...]:
        a, b = self.header.tensors[layer.a].shape, self.header.tensors[layer.b].shape
        return (b[0], a[1]) if len(a) == len(b) == 2 and a[0] == b[1] else (*b, *a)

    def _factor(self, key: str) -> int:
        value = self.metadata.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{self.path}: {key} must be a whole number of at least 1; got {value!r}")
        return value


def open_lora(path: str | os.PathLike[str], strength: float = 1.0) -> Lora:
    """Open a LoRA file; only its header is read. ``strength`` may be negative.

    Raises ValueError for a file without LoRA tensors, with half a pair, or of a kind that is not supported.
    """
    if not math.isfinite(strength):
        raise ValueError(f"LoRA strength must be a finite number; got {strength}")
    header = read_header(path)
    found: dict[str, dict[str, str]] = {}
    other: list[str] = []
    for name in header.tensors:
        for pattern, role in ROLES:
            if match := pattern.search(name):
                found.setdefault(_module(name[: match.start()]), {})[role] = name
                break
        else:
            other.append(name)
    if not found:
        raise ValueError(
            f"{path} is not a LoRA: none of its tensors ends in lora_A/lora_B.weight (found {_few(other)})"
        )
    if other:
        raise ValueError(
            f"{path} holds tensors of an unsupported LoRA kind: {_few(other)}; only lora_A/lora_B is read"
        )
    halves = [module for module, roles in found.items() if not {"A", "B"} <= roles.keys()]
    if halves:
        raise ValueError(f"{path}: one half of the pair is missing for {_few(halves)}; the file is damaged")
    layers = {module: LoraLayer(r["A"], r["B"], r.get("alpha")) for module, r in found.items()}
    return Lora(header, layers, strength)


def target_of(module: str) -> tuple[Component, str]:
    """The component that a module belongs to and its name there."""
    if module.startswith(_CONNECTORS):
        return Component.TEXT_CONNECTORS, module
    if module.startswith(_PROJECTION):
        return Component.TEXT_PROJECTION, module[len(_PROJECTION) :]
    return Component.TRANSFORMER, module


def apply_loras(
    state: dict[str, Tensor], loras: Sequence[Lora], component: Component
) -> tuple[dict[str, Tensor], list[LoraReport]]:
    """Return ``state`` with the changed weights replaced; untouched tensors are passed on, not copied.

    The sum over all LoRAs is formed in float32, layer by layer, and rounded once to the weight's dtype.
    Raises ValueError where a LoRA addresses this component and fits it nowhere.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    reports = [lora.report(component, shapes) for lora in loras]
    for report in reports:
        if not report.matched and (report.unmatched or report.shape_mismatched):
            raise ValueError(f"{report}. This LoRA was made for another model or another LTX-2 generation")
        if report.unmatched or report.shape_mismatched:
            log.warning("%s", report)
        else:
            log.info("%s", report)
    result, changes = dict(state), _Changes(loras, reports)
    for module in changes.modules:
        weight = state[f"{module}.weight"]
        total = weight.float()
        for change in changes.of(module, weight.device):
            total = total + change
        result[f"{module}.weight"] = total.to(weight.dtype)
    return result, reports


class _Changes:
    """Reads the pairs of several LoRAs module by module."""

    def __init__(self, loras: Sequence[Lora], reports: Sequence[LoraReport]) -> None:
        self.sources: list[tuple[Lora, dict[str, LoraLayer], Any]] = []
        for lora, report in zip(loras, reports, strict=True):
            own = {target_of(name): layer for name, layer in lora.layers.items()}
            layers = {name: own[report.component, name] for name in report.matched}
            self.sources.append((lora, layers, safe_open(lora.path, framework="pt")))
        self.modules = dict.fromkeys(name for _, layers, _ in self.sources for name in layers)

    def of(self, module: str, device: torch.device) -> list[Tensor]:
        """The changes (O, I) of one module in float32, one per LoRA that has it."""
        changes: list[Tensor] = []
        for lora, layers, file in self.sources:
            if layer := layers.get(module):
                a, b = (file.get_tensor(name).to(device, torch.float32) for name in (layer.a, layer.b))
                alpha = file.get_tensor(layer.alpha).item() / a.shape[0] if layer.alpha else 1.0
                changes.append((b @ a) * (lora.strength * alpha))
        return changes


def _module(name: str) -> str:
    for prefix in MODULE_PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _few(names: Sequence[str], limit: int = 3) -> str:
    shown = ", ".join(names[:limit])
    return shown + (", …" if len(names) > limit else "")

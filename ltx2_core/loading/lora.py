"""LoRA files: low-rank changes W + strength * scale * (B @ A) (Hu et al., 2021), matched to a model's layers.

Letters: R rank, I inputs, O outputs; A (R, I), B (O, R). Only headers are read here; ``lora_merge`` reads
the tensors.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..storage.files import read_object
from ..storage.header import Header, read_header
from .detect import Component
from .infer import infer_generation
from .lora_dialects import LoraLayer, ModuleNames, find_layers, target_of
from .lora_report import LoraEntry, LoraReport, Shape, Status, describe_generation, updated_stream

Shapes = Mapping[str, Shape]
"""Tensors of a model: official name -> shape."""

PEFT_METADATA = "lora_adapter_metadata"
PEFT_CONFIG = "adapter_config.json"
_FAMILY = re.compile(
    r"^transformer_blocks[._]\d+[._](audio_)?(attn[12]|ff|audio_to_video_attn|video_to_audio_attn)[._]"
    r"|^(audio_)?(patchify_proj|proj_out|caption_projection|(prompt_)?adaln_single)([._]|$)"
    r"|^av_ca_|_embeddings_connector[._]|aggregate_embed$"
)
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_FOLDER_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")


@dataclass(frozen=True, kw_only=True)
class LoraSpec:
    """A LoRA file and its strength; 0 turns it off, negative values apply the opposite change.

    ``video_strength`` and ``audio_strength`` override ``strength`` for the layers of their stream. A
    cross-modal layer counts for the stream that it updates.
    """

    path: str | os.PathLike[str]
    strength: float = 1.0
    video_strength: float | None = None
    audio_strength: float | None = None


@dataclass(frozen=True)
class Lora:
    """An opened LoRA file and the strengths to merge it with; no tensor has been read yet."""

    header: Header
    layers: Mapping[str, LoraLayer]
    """Layers by official module name, or by flat name (see ``lora_dialects.FLAT_PREFIXES``)."""
    strength: float = 1.0
    video_strength: float = 1.0
    audio_strength: float = 1.0

    @property
    def path(self) -> Path:
        return self.header.path

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self.header.metadata

    @property
    def reference_downscale_factor(self) -> int:
        """n if an IC-LoRA was trained with reference videos of 1/n of the width and height; otherwise 1."""
        return self._factor("reference_downscale_factor")

    @property
    def reference_temporal_scale_factor(self) -> int:
        """n if an IC-LoRA was trained with every n-th frame of the reference video; otherwise 1."""
        return self._factor("reference_temporal_scale_factor")

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that occur in this file, ascending."""
        return tuple(sorted({self.header.tensors[layer.a].shape[0] for layer in self.layers.values()}))

    @property
    def components(self) -> frozenset[Component]:
        """The components for which the file has layers."""
        return frozenset(target_of(module)[0] for module in self.layers)

    @property
    def settings(self) -> list[str | float]:
        """File name and strength, and the audio strength if it differs, as JSON values for saved settings."""
        audio = [] if self.audio_strength == self.video_strength else [self.audio_strength]
        return [self.path.name, self.video_strength, *audio]

    @property
    def base_model(self) -> str:
        """The generation of the base model and how it was detected, as text; "" if it is unknown."""
        shapes = {target_of(module): self._shape(layer) for module, layer in self.layers.items()}
        return describe_generation(shapes, self.metadata, None)[0]

    @property
    def is_of_family(self) -> bool:
        """Whether any layer's name occurs in an LTX-2 transformer, text connector or text projection."""
        return any(_FAMILY.search(target_of(module)[1]) for module in self.layers)

    def strength_of(self, module: str) -> float:
        """The strength for a module of any component, by its official name."""
        stream = updated_stream(module)
        if stream is None:
            return self.strength
        return self.video_strength if stream == "video" else self.audio_strength

    def pairs(self, component: Component, shapes: Shapes) -> dict[str, LoraLayer]:
        """The layers that fit a component with tensors of ``shapes``, by the component's module name."""
        return self._match({component: shapes})[1].get(component, {})

    def report(self, component: Component, shapes: Shapes, generation: str | None = None) -> LoraReport:
        """Compare the layers with the tensors of one component; ``generation`` is the model's, if known."""
        return self.report_all({component: shapes}, generation)

    def report_all(self, parts: Mapping[Component, Shapes], generation: str | None = None) -> LoraReport:
        """Compare the layers with several components of a model; layers for others are "elsewhere"."""
        entries, _ = self._match(parts)
        note, wrong = describe_generation(
            {(e.component, e.module): self._shape(layer) for e, layer in entries},
            self.metadata,
            generation or infer_generation(parts, ""),
        )
        return LoraReport(
            file=self.path.name,
            video_strength=self.video_strength,
            audio_strength=self.audio_strength,
            entries=tuple(entry for entry, _ in entries),
            note=note,
            wrong_generation=wrong,
        )

    def _match(
        self, parts: Mapping[Component, Shapes]
    ) -> tuple[list[tuple[LoraEntry, LoraLayer]], dict[Component, dict[str, LoraLayer]]]:
        names = {component: ModuleNames(shapes) for component, shapes in parts.items()}
        entries: list[tuple[LoraEntry, LoraLayer]] = []
        pairs: dict[Component, dict[str, LoraLayer]] = {}
        for module, layer in self.layers.items():
            component, name = target_of(module)
            status: Status = "elsewhere"
            detail = ""
            if component in parts:
                own, change = names[component].find(name), self._shape(layer)
                shape = parts[component].get(f"{own}.weight")
                name = own or name
                if own is None or shape is None:
                    status = "unmatched"
                elif change != tuple(shape):
                    status, detail = "mismatched", f"LoRA {change}, model {tuple(shape)}"
                else:
                    status = "matched"
                    pairs.setdefault(component, {})[name] = layer
            entries.append((LoraEntry(name, component, status, detail), layer))
        return entries, pairs

    def _shape(self, layer: LoraLayer) -> Shape:
        a, b = self.header.tensors[layer.a].shape, self.header.tensors[layer.b].shape
        # A pair that does not fit together has a shape that matches no module, and is reported as such.
        return (b[0], a[1]) if len(a) == len(b) == 2 and a[0] == b[1] else (*b, *a)

    def _factor(self, key: str) -> int:
        value = self.metadata.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{self.path}: {key} must be a whole number of at least 1; got {value!r}")
        return value


def open_lora(
    path: str | os.PathLike[str],
    strength: float = 1.0,
    *,
    video_strength: float | None = None,
    audio_strength: float | None = None,
) -> Lora:
    """Open a LoRA file, or the PEFT or diffusers folder of one; only the header is read.

    Raises FileNotFoundError for a missing file. Raises ValueError for a file without LoRA tensors, with
    incomplete pairs or of an unsupported kind such as LoKr, and for a strength that is not finite.
    """
    video = strength if video_strength is None else video_strength
    audio = strength if audio_strength is None else audio_strength
    for value in (strength, video, audio):
        if not math.isfinite(value):
            raise ValueError(f"LoRA strength must be a finite number; got {value}")
    header = read_header(_file_in(Path(path)))
    layers = find_layers(header.path, header.tensors)
    _check_tensors(header, layers)
    settings = _peft_settings(
        header, any(layer.a.startswith("base_model.model.") for layer in layers.values())
    )
    if settings:
        # The scale is alpha / rank, and ranks may differ between layers.
        ranks = {module: header.tensors[layer.a].shape[0] for module, layer in layers.items()}
        layers = {m: _scaled(header.path, layer, ranks[m], settings) for m, layer in layers.items()}
    return Lora(header, layers, strength, video, audio)


def _check_tensors(header: Header, layers: Mapping[str, LoraLayer]) -> None:
    for layer in layers.values():
        for name in (layer.a, layer.b, layer.alpha):
            info = None if name is None else header.tensors[name]
            if info is not None and info.dtype not in _FLOATS:
                raise ValueError(f"{header.path}: {name} holds {info.dtype}; floating point is needed")
        rank = header.tensors[layer.a].shape[:1]
        if not rank or not rank[0]:
            raise ValueError(f"{header.path}: {layer.a} has no rank (it is empty); the file is damaged")
        if layer.alpha is not None and header.tensors[layer.alpha].numel != 1:
            raise ValueError(f"{header.path}: {layer.alpha} must be one number; the file is damaged")


def _file_in(path: Path) -> Path:
    if not path.is_dir():
        return path
    files = [path / name for name in _FOLDER_FILES if (path / name).exists()] or sorted(
        path.glob("*.safetensors")
    )
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise ValueError(f"{path} should hold one LoRA file; found: {names}. Use the path of the file")
    return files[0]


def _peft_settings(header: Header, is_peft: bool) -> Mapping[str, Any]:
    """The training settings of a PEFT LoRA: diffusers stores them in the header, PEFT in a second file."""
    stated = header.metadata.get(PEFT_METADATA)
    settings_file = header.path.with_name(PEFT_CONFIG)
    if stated is None and is_peft and settings_file.is_file():
        stated = read_object(settings_file)
    if stated is None:
        return {}
    if not isinstance(stated, dict):
        raise ValueError(f"{header.path}: the settings of PEFT must be a JSON object; got {stated!r:.60}")
    return stated


def _scaled(path: Path, layer: LoraLayer, rank: int, settings: Mapping[str, Any]) -> LoraLayer:
    """The layer with PEFT's scale: alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRAs."""
    section = next((s for s in ("transformer.", "connectors.") if layer.a.startswith(s)), "")

    def setting(key: str) -> Any:
        return settings.get(section + key, settings.get(key))

    alpha = setting("lora_alpha")
    patterns = setting("alpha_pattern") or {}
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        try:
            found = re.match(rf"(.*\.)?({pattern})$", layer.raw)
        except re.error:
            found = None
        if found:
            alpha = value
            break
    if alpha is None:
        return layer
    # json.loads gives a bool for true, which is an int to isinstance.
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise ValueError(f"{path}: lora_alpha must be a number; got {alpha!r}")
    root = math.sqrt(rank) if setting("use_rslora") else rank
    return LoraLayer(layer.a, layer.b, layer.alpha, layer.raw, alpha / root)

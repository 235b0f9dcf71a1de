"""The file of a LoRA: which file of a folder it is, whether its layers are whole, and PEFT's scales.

Only headers are read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..storage.files import ParsedJson, read_object
from ..storage.header import Header
from .lora_dialects import LoraLayer
from .lora_kinds import change_shape, magnitude_fits, rank_of
from .lora_report import Shape

PEFT_METADATA = "lora_adapter_metadata"
PEFT_CONFIG = "adapter_config.json"
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_FOLDER_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")


def check_layers(header: Header, layers: Mapping[str, LoraLayer]) -> None:
    for module, layer in layers.items():
        magnitude = None if layer.magnitude is None else layer.magnitude.name
        for name in (*layer.names, layer.alpha, magnitude):
            info = None if name is None else header.tensors[name]
            if info is not None and info.dtype not in _FLOATS:
                raise ValueError(f"{header.path}: {name} holds {info.dtype}; floating point is needed")
            if info is not None and (not info.numel or (name in layer.names and not info.shape)):
                raise ValueError(f"{header.path}: {name} has no rank (it is empty); the file is damaged")
        if layer.alpha is not None and header.tensors[layer.alpha].numel != 1:
            raise ValueError(f"{header.path}: {layer.alpha} must be one number; the file is damaged")
        try:
            change = layer_shape(header, layer)
        except ValueError as error:
            raise ValueError(f"{header.path}: {module} is damaged: {error}") from None
        if magnitude is not None and not (
            len(change) == 2 and magnitude_fits(header.tensors[magnitude].shape, change)
        ):
            raise ValueError(
                f"{header.path}: {magnitude} is {header.tensors[magnitude].shape}, which does not fit a "
                f"change of {change}; the file is damaged"
            )


def layer_shape(header: Header, layer: LoraLayer) -> Shape:
    """Shape of the weight change that a layer makes, from the shapes of its tensors in ``header``.

    If A and B of a LoRA do not fit each other, it is a shape that no weight has. Raises ValueError if the
    factors of a LoKr or LoHa do not.
    """
    if layer.factors:
        return change_shape({role: header.tensors[name].shape for role, name in layer.factors.items()})
    # Factors that do not fit each other give a shape that no layer has, so that the report names them.
    a, b = header.tensors[layer.a].shape, header.tensors[layer.b].shape
    return (b[0], a[1]) if len(a) == len(b) == 2 and a[0] == b[1] else (*b, *a)


def layer_rank(header: Header, layer: LoraLayer) -> int | None:
    if layer.factors:
        return rank_of({role: header.tensors[name].shape for role, name in layer.factors.items()})
    return header.tensors[layer.a].shape[0]


def file_in(path: Path) -> Path:
    if not path.is_dir():
        return path
    # diffusers and PEFT name the file; with any other name it has to be the only one.
    files = [path / name for name in _FOLDER_FILES if (path / name).exists()] or sorted(
        path.glob("*.safetensors")
    )
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise ValueError(f"{path} should hold one LoRA file; found: {names}. Use the path of the file")
    return files[0]


def peft_settings(header: Header, is_peft: bool) -> ParsedJson:
    """Read the training settings of a PEFT LoRA, such as its alpha; {} if it has none.

    diffusers stores them in the header of the file, PEFT in a second file; the latter is read only if
    ``is_peft``.
    """
    stated = header.metadata.get(PEFT_METADATA)
    settings_file = header.path.with_name(PEFT_CONFIG)
    if stated is None and is_peft and settings_file.is_file():
        stated = read_object(settings_file)
    if stated is None:
        return {}
    if not isinstance(stated, dict):
        raise ValueError(f"{header.path}: the settings of PEFT must be a JSON object; got {stated!r:.60}")
    return stated


def with_peft_scale(header: Header, layer: LoraLayer, settings: ParsedJson) -> LoraLayer:
    """Return a copy of ``layer`` with the scale that PEFT's ``settings`` state for it.

    The scale is alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRAs. Without an alpha the layer is
    returned unchanged.
    """
    path, rank = header.path, layer_rank(header, layer)
    # diffusers has the settings of each network under its name.
    section = next((s for s in ("transformer.", "connectors.") if layer.names[0].startswith(s)), "")

    def setting(key: str) -> Any:
        return settings.get(section + key, settings.get(key))

    # PEFT's LoKr and LoHa call it alpha, and divide by the stated rank even where a factor is whole.
    alpha = setting("alpha") if layer.factors else setting("lora_alpha")
    patterns = setting("alpha_pattern") or {}
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        try:
            # As in PEFT, the first pattern that fits the end of the module's name counts.
            found = re.match(rf"(.*\.)?({pattern})$", layer.raw)
        # A pattern that is no regular expression applies to no layer.
        except re.error:
            found = None
        if found:
            alpha = value
            break
    if layer.factors:
        rank = setting("r") if isinstance(setting("r"), int) else rank
    if alpha is None or not rank:
        return layer
    # json.loads gives a bool for true, which is an int to isinstance.
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise ValueError(f"{path}: lora_alpha must be a number; got {alpha!r}")
    # Rank-stabilised LoRA, Kalajdzievski (2023).
    root = math.sqrt(rank) if setting("use_rslora") else rank
    return replace(layer, scale=alpha / root)

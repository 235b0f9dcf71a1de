"""Merges LoRAs into the weights of a model and writes the result, one layer in memory at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ...media.atomic import replacing
from ...storage.quantized import find_quantized
from ...storage.reading import read_markers
from ...storage.writing import Entry, as_bytes, entry_of
from ..checkpoint import Checkpoint
from ..convert import convert, single_parts
from ..detect import Component
from ..lora import Lora
from ..lora_merge import Base, Change, find_changes, merged
from ..lora_report import LoraReport


def merge_into_model(path: Path, sources: Sequence[Checkpoint], loras: Sequence[Lora]) -> list[LoraReport]:
    """Write everything that ``sources`` hold to one file, with ``loras`` merged at their strengths.

    A weight is computed in float32 and rounded once to the format of the source; quantised layers get new
    scales. Returns how the LoRAs fit each component.

    Raises:
        ValueError: before a weight is read, if a LoRA fits none of the layers, changes a component that the
            sources lack or a text encoder, or if nothing can be converted (as for GGUF); afterwards, if the
            written tensors differ from what was computed.
    """
    parts = single_parts(sources)
    for lora in loras:
        _check_parts(lora, parts)
    chosen = {part: next(source for source in sources if part in source.components) for part in parts}
    changed, reports = {}, []
    for part, source in chosen.items():
        own = [lora for lora in loras if part in lora.components]
        if not own:
            continue
        base = _base(source, part)
        changes, found = find_changes(own, part, base.shapes, source.generation)
        reports += found
        if changes:
            changed[part] = _Merged(base, changes)
    if not changed:
        raise ValueError("nothing would change: every strength is 0, or no layer fits")
    stated = {"merged_loras": " + ".join(f"{lora.path.name} x {lora.video_strength:g}" for lora in loras)}
    with replacing(path) as temporary:
        convert(temporary, sources, parts, fp8=False, changed=changed, stated=stated)
    return reports


def _check_parts(lora: Lora, parts: Sequence[Component]) -> None:
    for component in sorted(lora.components, key=str):
        if component is Component.TEXT_ENCODER:
            raise ValueError(
                f"{lora.path} changes the text encoder, which is no part of a checkpoint: pass it to ltx2 "
                "generate --lora"
            )
        if component not in parts:
            raise ValueError(
                f"{lora.path} changes the {component}, which these files lack: add the file that holds it"
            )


def _base(source: Checkpoint, component: Component) -> Base:
    infos = source.infos(component)
    layers = find_quantized(infos, read_markers(infos, source.metadata))
    return Base(
        infos=infos,
        layers=layers,
        # All of them, so that each is encoded again in its own format.
        resident=frozenset(layers),
        shapes=source.shapes(component),
        dtype=None,
        device=torch.device("cpu"),
    )


class _Merged:
    """The layers of one component that LoRAs change; a layer is computed when its first tensor is written."""

    def __init__(self, base: Base, changes: Mapping[str, Sequence[Change]]) -> None:
        self.base, self.changes = base, changes
        self._replaced = {name for module in changes for name in base.names(module)}
        self._waiting: dict[str, dict[str, Tensor]] = {}
        self._digests: dict[str, str] = {}

    def replaces(self, own: str) -> bool:
        return own in self._replaced

    def entries(self) -> dict[str, Entry]:
        entries = {}
        for module in sorted(self.changes):
            for suffix, entry in self._forms(module).items():
                make = partial(self._make, module, suffix)
                entries[f"{module}.{suffix}"] = Entry(entry.dtype, entry.shape, make)
        return entries

    def is_written(self, own: str, tensor: Tensor) -> bool:
        return self._digests[own] == _digest(tensor)

    def _forms(self, module: str) -> dict[str, Entry]:
        """Number format and shape of each tensor of the merged layer."""
        info = self.base.infos[f"{module}.weight"]
        if module not in self.base.layers and info.dtype in ("BF16", "F16", "F32"):
            return {"weight": Entry(info.dtype, info.shape, _never)}
        # Which scales a quantised layer gets is known once it was encoded; it is encoded again when written.
        return {suffix: entry_of(tensor) for suffix, tensor in self._compute(module).items()}

    def _make(self, module: str, suffix: str) -> Tensor:
        if module not in self._waiting:
            self._waiting[module] = self._compute(module)
        tensor = self._waiting[module].pop(suffix)
        if not self._waiting[module]:
            del self._waiting[module]
        self._digests[f"{module}.{suffix}"] = _digest(tensor)
        return tensor

    def _compute(self, module: str) -> dict[str, Tensor]:
        [(_, tensors)] = merged(self.base, {module: self.changes[module]})
        return tensors


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(as_bytes(tensor).numpy().data).hexdigest()


def _never() -> Tensor:
    raise AssertionError("only the format is needed")

"""Reads model files by ComfyUI's own reader, so that its lazy and memory-mapped loading applies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.quant_ops
import comfy.utils
import torch
from torch import Tensor, nn

from ...ltx2_core.loading.checkpoint import Checkpoint, find_component, open_checkpoint
from ...ltx2_core.loading.detect import Component
from ...ltx2_core.loading.sections import joined_config
from ...ltx2_core.storage.dequantize import GROUP_SCALES, SCALE_NAMES, Format, decode
from ...ltx2_core.storage.files import ParsedJson
from ...ltx2_core.storage.gguf import is_gguf, read_gguf_tensors
from ...ltx2_core.storage.gguf_blocks import BLOCKS
from ...ltx2_core.storage.header import TensorInfo
from ...ltx2_core.storage.quantized import StoredLayer, find_quantized
from ...ltx2_core.storage.reading import read_markers
from .gguf_layers import Blocks, GgufWeights

Tensors = dict[str, Tensor]
Config = ParsedJson
"""The JSON configuration of a checkpoint, by component."""

HOST_NAMES = {"scale_weight": "weight_scale", "scale_input": "input_scale"}
"""Name of a scale tensor in older files -> ComfyUI's name for it."""

HOST_FORMATS: Mapping[str, str] = {
    "nvfp4": "nvfp4",
    "mxfp8": "mxfp8",
    "int8": "int8_tensorwise",
    "w4a4": "convrot_w4a4",
    "w4a8": "asym_w4a8_int8",
}
FP8_FORMATS: Mapping[str, str] = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}


@dataclass(frozen=True)
class Weights:
    """Opened model files and folders; each component is read from the first of them that holds it."""

    checkpoints: tuple[Checkpoint, ...]
    _files: dict[Path, Mapping[str, Tensor]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The names of all files, joined by " + ", to be named in errors."""
        return " + ".join(checkpoint.path.name for checkpoint in self.checkpoints)

    @property
    def config(self) -> Config:
        """All configurations joined, each section from the file whose components it describes."""
        read = {file: [c for c in file.components if self.source(c) is file] for file in self.checkpoints}
        return joined_config([(file.config, components) for file, components in read.items()])

    def source(self, component: Component) -> Checkpoint:
        """Return the file that ``component`` is read from. Raises ValueError if no file holds it."""
        return find_component(self.checkpoints, component)

    def take(self, *components: Component) -> Tensors:
        """Read the tensors of ``components`` as they are stored, under their names in the LTX-2 repository.

        Raises ValueError if no file holds one of the components.
        """
        return {
            own: self._tensor(info)
            for component in components
            for own, info in self.source(component).infos(component).items()
        }

    def take_quantised(self, *components: Component) -> Tensors:
        """Read the tensors of ``components``; quantised layers stay quantised, in the form of ComfyUI's own.

        Formats that this ComfyUI version does not support are decoded to bfloat16. Matrices of GGUF files are
        placeholders without memory, for :meth:`take_gguf`. Raises ValueError if no file holds one of the
        components.
        """
        tensors = self.take(*components)
        for component in components:
            source = self.source(component)
            infos = source.infos(component)
            markers = read_markers(infos, source.metadata)
            # The mark is one for a whole file; the host reads it from each layer.
            exact = _requires_full_precision(source)
            for layer in find_quantized(infos, markers).values():
                parts = {s: tensors.pop(f"{layer.name}.{s}") for s in layer.infos}
                if _stays_in_blocks(layer):
                    tensors[f"{layer.name}.weight"] = Blocks(layer, parts["weight"]).placeholder
                    continue
                stored = _for_host(layer, parts, markers.get(layer.name), full_precision=exact)
                tensors |= {f"{layer.name}.{suffix}": tensor for suffix, tensor in stored.items()}
        return tensors

    def take_gguf(self, *components: Component) -> GgufWeights:
        """The matrices of ``components`` that GGUF files store in blocks."""
        found = {}
        for component in components:
            infos = self.source(component).infos(component)
            for layer in find_quantized(infos, {}).values() if any(map(_is_block, infos.values())) else ():
                if _stays_in_blocks(layer):
                    found[layer.name] = Blocks(layer, self._tensor(layer.infos["weight"]))
        return GgufWeights(found)

    def _tensor(self, info: TensorInfo) -> Tensor:
        if is_gguf(info.path):
            # The host reads no GGUF.
            return read_gguf_tensors(info.path, {info.name: info})[info.name]
        # Several components usually share a file, which is mapped only once.
        if info.path not in self._files:
            # The host's reader maps the file, so that a tensor that is not used is never read from disk.
            self._files[info.path] = comfy.utils.load_torch_file(str(info.path))
        return self._files[info.path][info.name]


def read_weights(*paths: str | Path) -> Weights:
    """Open model files or folders; only headers are read.

    Raises ValueError if one of them is damaged or does not belong to LTX-2.
    """
    return Weights(tuple(open_checkpoint(path) for path in paths))


def load_exactly(module: nn.Module, tensors: Tensors, what: str, *, assign: bool) -> None:
    """Load ``tensors`` into ``module``, which must have parameters and buffers of exactly these names.

    ``what`` names the module in errors. ``assign`` makes the tensors themselves the parameters instead of
    copying them. Raises ValueError that names the first tensors that are missing or left over.
    """
    # Not strict, because torch's own error would list thousands of keys.
    missing, unexpected = module.load_state_dict(tensors, strict=False, assign=assign)
    if missing or unexpected:
        raise ValueError(
            f"{what}: the weights do not fit the network; {len(missing)} missing ({', '.join(missing[:3])}), "
            f"{len(unexpected)} unexpected ({', '.join(unexpected[:3])})"
        )


def _for_host(
    layer: StoredLayer, parts: Tensors, marker: Mapping[str, Any] | None, *, full_precision: bool
) -> Tensors:
    """The tensors of one quantised layer under ComfyUI's names, with its settings as JSON in ``comfy_quant``.

    ``parts`` are the stored tensors, ``marker`` the settings that the file states for this layer, None if it
    states none; ``full_precision`` demands that the layer multiplies in full precision. A layer whose format
    ComfyUI does not support is decoded to bfloat16.
    """
    name = HOST_FORMATS.get(layer.form.kind) or FP8_FORMATS.get(layer.infos["weight"].dtype)
    # fp8 without a scale is only a storage dtype, which the host casts when it computes.
    if layer.form.kind == "float" and not any(suffix in parts for suffix in SCALE_NAMES):
        return {"weight": parts["weight"]}
    known = getattr(comfy.quant_ops, "QUANT_ALGOS", {})
    # Older hosts support fewer formats, and a decoded layer computes the same more slowly.
    if name not in known:
        return {"weight": decode(layer.name, layer.form, parts, layer.shape).bfloat16()}
    entry = {**(marker or _entry(layer.form)), "format": name}
    if full_precision:
        entry["full_precision_matrix_mult"] = True
    renamed = {HOST_NAMES.get(suffix, suffix): tensor for suffix, tensor in parts.items()}
    # Only the parameters of this format: the host's layers reject any other tensor. Its list for W4A8 leaves
    # out what its layers read.
    read = {"weight", *known[name]["parameters"], *GROUP_SCALES}
    taken = {suffix: renamed[suffix] for suffix in renamed if suffix in read}
    # The host stores a layer's marker as JSON text in a tensor of bytes.
    raw = list(json.dumps(entry).encode())
    return {**taken, "comfy_quant": torch.tensor(raw, dtype=torch.uint8)}


def _is_block(info: TensorInfo) -> bool:
    return info.dtype in BLOCKS


def _stays_in_blocks(layer: StoredLayer) -> bool:
    """Whether a layer is a matrix of a GGUF file; norms and other vectors are small, and are decoded."""
    return layer.form.kind == "gguf" and len(layer.shape) == 2


def _entry(form: Format) -> dict[str, bool | int]:
    """The settings that tell ComfyUI of rotated weights in a quantised layer of the format ``form``.

    Rotated weights were multiplied by a Hadamard matrix, group by group of their inputs. The result is empty
    without rotation.
    """
    return {"convrot": True, "convrot_groupsize": form.rotation} if form.rotation else {}


def _requires_full_precision(source: Checkpoint) -> bool:
    """Whether the file demands that the matrix products of its quantised layers run in full precision.

    Older files say so by a tensor ``scaled_fp8`` of two elements.
    """
    marks = (info for name, info in source.tensors.items() if name.rpartition(".")[2] == "scaled_fp8")
    return any(mark.numel == 2 for mark in marks)

"""Converts checkpoints: between single files, split files and diffusers folders, and from bf16 to fp8.

The result has the tensor names of the LTX-2 repository, the official names. Tensors that are not converted
are copied bit for bit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from ..storage.dequantize import Format, decode
from ..storage.files import ParsedJson
from ..storage.gguf import is_gguf
from ..storage.header import TensorInfo, read_header
from ..storage.quantize import FP8_ERROR, FP8_STEP, encode
from ..storage.quantized import QUANTISED_DTYPES
from ..storage.reading import read_markers
from ..storage.writing import Entry, as_bytes, write_safetensors
from . import diffusion_vae
from .checkpoint import Checkpoint
from .detect import OFFICIAL_PREFIXES, Component
from .sections import joined_config

NOT_QUANTISED = re.compile(
    r"audio"
    r"|^(patchify_proj|proj_out|caption_projection|.*adaln_single)\."
    r"|\.to_gate_logits$"
    r"|_embeddings_connector\."
)
"""Layers of the transformer whose dtype is preserved when the rest is converted to fp8.

The audio stream and both cross-modal attentions are half as wide as the video stream, so they save little,
and errors in audio are noticed sooner than errors in frames. Every token passes the input and output
projections, timestep and prompt modulation and attention gates, so their errors do not average out.
Connectors run only once for each prompt.
"""

SPLIT_FILES: Mapping[str, tuple[Component, ...]] = {
    "transformer": (Component.TRANSFORMER,),
    "text_encoder_post_modules": (Component.TEXT_CONNECTORS, Component.TEXT_PROJECTION),
    "video_vae_encoder": (Component.VIDEO_ENCODER,),
    "video_vae_decoder": (Component.VIDEO_DECODER,),
    "audio_vae_encoder": (Component.AUDIO_ENCODER,),
    "audio_vae_decoder": (Component.AUDIO_DECODER,),
    "audio_vocoder": (Component.VOCODER,),
    "latent_upsampler": (Component.UPSAMPLER,),
    "duration_head": (Component.DURATION_HEAD,),
}
"""Names of split files, as in the DiffSynth-Studio repackage, and the components of each."""


def check_convertible(sources: Sequence[Checkpoint]) -> None:
    """Raise ValueError, naming the file, if one of ``sources`` is in a format that only loading reads."""
    for source in sources:
        if is_gguf(source.path):
            raise ValueError(
                f"{source.path} is a GGUF file, which cannot be converted: use it as it is, or convert the "
                "safetensors file that it was made of"
            )


def single_parts(sources: Sequence[Checkpoint]) -> tuple[Component, ...]:
    """The components of a single file that is made from ``sources``.

    These are all networks of the model that the sources contain, except the upscaler; if they contain nothing
    but an upscaler, it is the only component. LoRAs and text encoders are left out. Raises ValueError if the
    sources contain nothing that can be converted, and for a GGUF file.
    """
    check_convertible(sources)
    held = {component for source in sources for component in source.components}
    parts = tuple(component for component in OFFICIAL_PREFIXES if component in held)
    main = tuple(component for component in parts if component is not Component.UPSAMPLER)
    if not parts:
        raise ValueError("none of the sources contains a part of an LTX-2 checkpoint that can be converted")
    return main or parts


def split_parts(sources: Sequence[Checkpoint]) -> dict[str, tuple[Component, ...]]:
    """The split files that ``sources`` can be written to: file name without extension -> its components.

    Raises ValueError for a GGUF file.
    """
    check_convertible(sources)
    held = {component for source in sources for component in source.components}
    files = {name: tuple(c for c in parts if c in held) for name, parts in SPLIT_FILES.items()}
    return {name: parts for name, parts in files.items() if parts}


class Replacements(Protocol):
    """Layers of a component that are written with other tensors than those of the source."""

    def replaces(self, own: str) -> bool:
        """Whether the tensor of the source with this official name is not copied."""

    def entries(self) -> Mapping[str, Entry]:
        """What is written instead, by official name, in the order of writing."""

    def is_written(self, own: str, tensor: Tensor) -> bool:
        """Whether ``tensor``, read back, has the bytes that were written under this name."""


def convert(
    path: Path,
    sources: Sequence[Checkpoint],
    parts: Sequence[Component],
    *,
    fp8: bool,
    changed: Mapping[Component, Replacements] = MappingProxyType({}),
    stated: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """Write the components ``parts`` of ``sources`` to one file at ``path``, then read it back and compare.

    Each component is taken from the first source that contains it. With ``fp8`` most matrices of the
    transformer become scaled float8_e4m3fn; returns the number of these layers. One tensor is in memory at a
    time. ``changed`` are layers with other weights than those of the sources, which ``fp8`` does not touch,
    and ``stated`` are further strings for the header.

    Raises:
        ValueError: a source is damaged, the written tensors differ, or the written file cannot be loaded.
    """
    read = TensorReader()
    entries: dict[str, Entry] = {}
    checks: dict[str, Callable[[Mapping[str, TensorInfo]], bool]] = {}
    layers = 0
    chosen = {c: next(source for source in sources if c in source.components) for c in parts}
    for component, source in chosen.items():
        infos = source.infos(component)
        if component is Component.VIDEO_DECODER and source.has_diffusion_decoder:
            _add_diffusion_decoder(read, infos, entries, checks)
            continue
        markers = read_markers(infos, source.metadata)
        prefix = OFFICIAL_PREFIXES[component]
        others = changed.get(component)
        if others is not None:
            _add_replacements(read, others, prefix, entries, checks)
        # Sorted, so that equal sources give an equal file.
        for own, info in sorted(infos.items()):
            name, layer = prefix + own, own.removesuffix(".weight")
            copied = others is None or not others.replaces(own)
            if fp8 and copied and component is Component.TRANSFORMER and _becomes_fp8(own, info):
                # The scale is known only after the weight was encoded, which is why it is written after it.
                encoded = _Fp8(partial(read, info))
                entries[name] = Entry("F8_E4M3", info.shape, encoded.weight)
                entries[f"{prefix}{layer}.weight_scale"] = Entry("F32", (), encoded.scale)
                _mark(entries, prefix + layer, {"format": "float8_e4m3fn"})
                checks[name] = partial(_is_close, read, name, info)
                layers += 1
                continue
            if copied:
                entries[name] = Entry(info.dtype, info.shape, partial(read, info))
                checks[name] = partial(_is_equal, read, name, info)
            if own.endswith(".weight") and layer in markers and f"{layer}.comfy_quant" not in infos:
                _mark(entries, prefix + layer, markers[layer])
    metadata = {**_metadata(chosen), **stated}
    write_safetensors(path, entries, metadata)
    # Read back from the disk, since a full or failing one may not report an error.
    _verify(path, checks)
    written = Checkpoint(read_header(path))
    for component in parts:
        # Equal tensors are not enough: the configuration must also describe them.
        written.check(component)
    return layers


def _metadata(chosen: Mapping[Component, Checkpoint]) -> dict[str, str]:
    """The header of a file that is made of ``chosen``: joined configuration and version."""
    used = {source: [c for c, own in chosen.items() if own is source] for source in chosen.values()}
    config = joined_config([(source.config, components) for source, components in used.items()])
    # The exact version of a source is preferred to the detected generation, which has no patch number.
    version = next((str(s.metadata["model_version"]) for s in used if "model_version" in s.metadata), None)
    found = next((s.generation for s in used if s.generation), None)
    metadata = {"config": json.dumps(config)}
    if version or found:
        metadata["model_version"] = version or f"{found}.0"
    return metadata


def _add_replacements(
    read: TensorReader,
    others: Replacements,
    prefix: str,
    entries: dict[str, Entry],
    checks: dict[str, Callable[[Mapping[str, TensorInfo]], bool]],
) -> None:
    """Add the tensors of ``others``, with ``prefix`` before their names, to what is written and checked."""
    for own, entry in others.entries().items():
        entries[prefix + own] = entry
        checks[prefix + own] = partial(_is_written, read, others, own, prefix + own)


def _add_diffusion_decoder(
    read: TensorReader,
    infos: Mapping[str, TensorInfo],
    entries: dict[str, Entry],
    checks: dict[str, Callable[[Mapping[str, TensorInfo]], bool]],
) -> None:
    """Add the diffusion video decoder of a source to what is written, in the official layout.

    ``infos`` are the header entries of its tensors in the source, and ``read`` reads the tensor of one.
    ``entries`` (tensors to write) and ``checks`` each get an entry for each tensor, by name. A check says,
    from the header entries of the written file, whether that tensor was written correctly.
    """
    prefix = OFFICIAL_PREFIXES[Component.VIDEO_DECODER]
    for own, (dtype, shape, make) in sorted(diffusion_vae.entries(infos).items()):
        name = prefix + own
        entries[name] = Entry(dtype, shape, make)
        checks[name] = partial(_is_made, read, name, make)


def _is_written(
    read: TensorReader, others: Replacements, own: str, name: str, written: Mapping[str, TensorInfo]
) -> bool:
    return others.is_written(own, read(written[name]))


def _is_made(
    read: TensorReader, name: str, make: Callable[[], Tensor], written: Mapping[str, TensorInfo]
) -> bool:
    return torch.equal(as_bytes(make()), as_bytes(read(written[name])))


def _verify(path: Path, checks: Mapping[str, Callable[[Mapping[str, TensorInfo]], bool]]) -> None:
    written = read_header(path).tensors
    wrong = [name for name, check in checks.items() if not check(written)]
    if wrong:
        names = ", ".join(wrong[:3])
        raise ValueError(
            f"{len(wrong)} tensors read back from {path} differ ({names}); the disk may be damaged"
        )


def _is_equal(read: TensorReader, name: str, source: TensorInfo, written: Mapping[str, TensorInfo]) -> bool:
    return torch.equal(as_bytes(read(source)), as_bytes(read(written[name])))


def _is_close(read: TensorReader, name: str, source: TensorInfo, written: Mapping[str, TensorInfo]) -> bool:
    """Whether the fp8 values of a written tensor differ from the source's values only by rounding.

    ``read`` reads a tensor by its header entry. ``name`` is the tensor's name in the new file, whose header
    entries are ``written``; ``source`` is its header entry in the source.
    """
    scale = read(written[f"{name}_scale"])
    tensors = {"weight": read(written[name]), "weight_scale": scale}
    weight = read(source).float()
    error = (decode(name, Format("float"), tensors, source.shape) - weight).abs()
    # A thousandth covers the float32 rounding of dividing by the scale and multiplying with it.
    return bool((error <= (weight.abs() * FP8_ERROR + scale * FP8_STEP) * 1.001).all())


def _becomes_fp8(own: str, info: TensorInfo) -> bool:
    floats = info.dtype not in QUANTISED_DTYPES and info.dtype in ("BF16", "F16", "F32")
    matrix = own.endswith(".weight") and len(info.shape) == 2
    return floats and matrix and not NOT_QUANTISED.search(own.removesuffix(".weight"))


class _Fp8:
    """Encodes the weight of one layer to scaled fp8, at the moment when it is written.

    ``read`` returns the weight of the source. :meth:`weight` encodes and returns it. :meth:`scale`, to be
    called after that, returns the scale. So the encoded weight need not stay in memory until its scale is
    written.
    """

    def __init__(self, read: Callable[[], Tensor]) -> None:
        self.read = read
        self._scale: Tensor | None = None

    def weight(self) -> Tensor:
        encoded = encode(Format("float"), self.read())
        self._scale = encoded["weight_scale"]
        return encoded["weight"]

    def scale(self) -> Tensor:
        assert self._scale is not None
        return self._scale


def _mark(entries: dict[str, Entry], layer: str, marker: ParsedJson) -> None:
    raw = json.dumps(dict(marker)).encode()
    tensor = torch.tensor(list(raw), dtype=torch.uint8)
    entries[f"{layer}.comfy_quant"] = Entry("U8", (len(raw),), lambda: tensor)


class TensorReader:
    """A function that reads the tensor of a header entry; files stay open between calls."""

    def __init__(self) -> None:
        self.files: dict[Path, Any] = {}

    def __call__(self, info: TensorInfo) -> Tensor:
        if info.path not in self.files:
            self.files[info.path] = safe_open(info.path, framework="pt", device="cpu")
        tensor: Tensor = self.files[info.path].get_tensor(info.name)
        return tensor

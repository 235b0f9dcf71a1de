"""Decodes quantised linear weights to float32: fp8, NVFP4, MXFP8, int8 and 4-bit integers.

Letters: O output features, I input features.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from .files import ParsedJson
from .gguf_blocks import gguf_values
from .int4 import grouped_values, signed_nibbles

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
SCALE_NAMES = ("weight_scale", "scale_weight")
"""Names of the tensor with a weight's scale; the second is that of older files, with ``scaled_fp8``."""
GROUP_SCALES = ("weight_s_rel", "weight_s_channel", "weight_codebook")
"""Tensors of W4A8: scales of groups of inputs and of outputs, and perhaps the values of the 16 codes."""

COMPANIONS = (*SCALE_NAMES, "weight_scale_2", "input_scale", "scale_input", "comfy_quant", *GROUP_SCALES)
"""Names of the tensors that may accompany a quantised ``weight``."""

# The largest finite value of float8_e4m3fn.
FP8_MAX = 448.0
NVFP4_BLOCK = 16
MXFP8_BLOCK = 32
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes of the fp4 (E2M1) codes 0 to 7; bit 3 of a code is the sign."""
ROTATION = 256
"""Default number of input features whose weights are rotated together, see :func:`hadamard`."""

Kind = Literal["float", "nvfp4", "mxfp8", "int8", "w4a4", "w4a8", "gguf"]
_KINDS: Mapping[str, Kind] = {
    "float8_e4m3fn": "float",
    "float8_e5m2": "float",
    "nvfp4": "nvfp4",
    "mxfp8": "mxfp8",
    "int8_tensorwise": "int8",
    "convrot_w4a4": "w4a4",
    "asym_w4a8_int8": "w4a8",
}
PACKED: tuple[Kind, ...] = ("w4a4", "w4a8")
"""Kinds that store two 4-bit codes in each byte of an int8 weight; their weights are always rotated."""

_STORED: Mapping[Kind, tuple[torch.dtype, ...]] = {
    "nvfp4": (torch.uint8,),
    "mxfp8": FP8,
    "int8": (torch.int8,),
    "w4a4": (torch.int8,),
    "w4a8": (torch.int8,),
}
_NEEDED: Mapping[Kind, tuple[str, ...]] = {
    "nvfp4": ("weight_scale", "weight_scale_2"),
    "mxfp8": ("weight_scale",),
    "w4a4": ("weight_scale",),
    "w4a8": GROUP_SCALES[:2],
}


@dataclass(frozen=True)
class Format:
    """The format in which one quantised layer is stored.

    ``kind`` is "nvfp4", "mxfp8", "int8", "w4a4" or "w4a8" (4-bit integers), "gguf" (blocks of a GGUF file),
    or "float", which includes fp8.
    ``rotation`` is the number of inputs per group whose weights were multiplied by a Hadamard matrix, 0 for
    none. ``full_precision`` demands that the layer is multiplied in the compute dtype.
    """

    kind: Kind
    """ "float" is any floating-point weight, fp8 included, times one scale if it has one."""
    rotation: int = 0
    """Inputs per group whose weights were multiplied with :func:`hadamard`; 0 for no rotation."""
    full_precision: bool = False
    """Whether the file demands that the layer is multiplied in the compute dtype, not in the stored one."""
    block: str = ""
    """For the kind "gguf" the format of its blocks, such as "Q4_K"."""


def format_of(name: str, dtypes: Mapping[str, torch.dtype], marker: ParsedJson | None = None) -> Format:
    """Detect the format of layer ``name`` from the dtypes of its tensors and from its marker.

    ``dtypes`` maps ``weight`` and the names of its companion tensors (scales and others) to dtypes.
    ``marker`` is the JSON object of the tensor ``comfy_quant`` or of the header's ``_quantization_metadata``;
    None where there is none.

    Raises:
        ValueError: the format is not supported, or a tensor that it needs is missing or of another dtype.
    """
    # A marker is decisive where there is one: several formats store their weights in the same dtype.
    weight = dtypes["weight"]
    if marker is not None:
        stated = str(marker.get("format"))
        if stated not in _KINDS:
            raise ValueError(
                f"{name} is quantised as {stated!r}; supported are {', '.join(_KINDS)}: "
                "use another file of this model"
            )
        kind = _KINDS[stated]
    elif weight == torch.uint8 and "weight_scale_2" in dtypes:
        kind = "nvfp4"
    elif weight in FP8 and dtypes.get("weight_scale") in (torch.uint8, _E8M0):
        kind = "mxfp8"
    elif weight == torch.int8 and any(scale in dtypes for scale in SCALE_NAMES):
        kind = "int8"
    elif weight.is_floating_point:
        kind = "float"
    else:
        raise ValueError(f"{name}.weight holds {weight} without a marker that says how to decode it")
    stored = _STORED.get(kind)
    if (stored and weight not in stored) or not (stored or weight.is_floating_point):
        raise ValueError(f"{name} is marked {kind} but its weight is {weight}; the file is damaged")
    for suffix in _NEEDED.get(kind, ()):
        if suffix not in dtypes:
            raise ValueError(
                f"{name} is quantised as {kind} but {name}.{suffix} is missing; the file is incomplete"
            )
    options = {**_options(marker), **(marker or {})}
    rotated = options.get("convrot") or kind in PACKED
    rotation = int(options.get("convrot_groupsize", ROTATION)) if rotated else 0
    return Format(kind, rotation, bool(options.get("full_precision_matrix_mult")))


def _options(marker: ParsedJson | None) -> ParsedJson:
    """The options in the entry ``params`` of a marker, where some tools write them; {} if it has none.

    ``marker`` is the JSON object by which a file describes the format of a quantised layer, or None.
    """
    params = (marker or {}).get("params")
    return params if isinstance(params, dict) else {}


def decode(name: str, form: Format, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    """Decode the stored weight of layer ``name`` to float32 of shape ``shape``.

    ``form`` is the format of the layer. ``tensors`` holds ``weight`` and its companions (scales and others)
    under these names. ``shape`` is (O, I), outputs and inputs, or any shape if ``form.kind`` is "float";
    padding of the stored weight beyond it is cut off.

    Raises:
        ValueError: the sizes of weight and scales do not fit each other.
    """
    weight = tensors["weight"]
    if form.kind == "nvfp4":
        result = _nvfp4(name, weight, tensors["weight_scale"], tensors["weight_scale_2"])
    elif form.kind == "mxfp8":
        result = _mxfp8(name, weight, tensors["weight_scale"])
    elif form.kind == "gguf":
        # Layers that a LoRA has changed are encoded again as Q8_0, the only format of 34 bytes for 32 values.
        changed = weight.shape[-1] * 32 == shape[-1] * 34
        result = gguf_values("Q8_0" if changed else form.block, weight).reshape(shape)
    elif form.kind == "w4a4":
        rows = _broadcast(name, tensors["weight_scale"], weight, rows=True)
        result = _unrotate(name, signed_nibbles(weight) * rows, form.rotation)
    elif form.kind == "w4a8":
        rel, channel = (tensors[suffix] for suffix in GROUP_SCALES[:2])
        values = grouped_values(name, weight, rel, channel, tensors.get(GROUP_SCALES[2]))
        result = _unrotate(name, values, form.rotation)
    else:
        result = weight.float()
        scale = next((tensors[s] for s in SCALE_NAMES if s in tensors), None)
        if scale is not None:
            result = result * _broadcast(name, scale, weight, rows=form.kind == "int8")
        if form.rotation:
            result = _unrotate(name, result, form.rotation)
    # NVFP4 and MXFP8 weights are padded to whole blocks.
    return result[: shape[0], : shape[1]] if result.shape != shape and len(shape) == 2 else result


def read_marker(name: str, raw: bytes) -> ParsedJson:
    """Parse ``raw``, the bytes of layer ``name``'s tensor ``comfy_quant``, which describes its format.

    Raises ValueError unless they are a JSON object.
    """
    try:
        marker = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}.comfy_quant is not JSON ({error}); the file is damaged") from None
    if not isinstance(marker, dict):
        raise ValueError(f"{name}.comfy_quant is not a JSON object; the file is damaged")
    return marker


def logical_shape(dtype: torch.dtype, stored: Iterable[int], *, packed: bool = False) -> tuple[int, ...]:
    """Shape of a decoded weight from the dtype and shape of the ``stored`` tensor.

    The last size of a matrix that holds two values per byte is doubled; other shapes stay. uint8 always means
    two fp4 values per byte, ``packed`` that another dtype holds two values per byte too.
    """
    sizes = tuple(stored)
    twice = (packed or dtype == torch.uint8) and len(sizes) == 2
    return (*sizes[:-1], 2 * sizes[-1]) if twice else sizes


def untile_block_scales(stored: Tensor, rows: int, columns: int) -> Tensor:
    """Undo the tiled layout that cuBLAS requires for block scales: ``stored`` (R, C) -> (rows, columns).

    R is ``rows`` rounded up to 128, C ``columns`` rounded up to 4. A tile covers 128 rows and 4 columns and
    stores rows r, r + 32, r + 64 and r + 96 next to each other.
    """
    # cuBLAS reads the scales of a tile as one block of 512 bytes, hence the order.
    tiles = rearrange(
        stored.reshape(-1), "(a b s q c) -> (a q s) (b c)", b=stored.shape[1] // 4, s=32, q=4, c=4
    )
    return tiles[:rows, :columns]


@lru_cache(maxsize=4)
def hadamard(size: int) -> Tensor:
    """Hadamard rotation (size, size): symmetric, orthogonal and its own inverse.

    It is a Kronecker power of a 4 x 4 Hadamard matrix. Raises ValueError unless ``size`` is a power of 4.
    """
    base = torch.tensor([[1.0, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]) / 2
    result = torch.ones(1, 1)
    # Kronecker products, so that a large rotation needs no table of its own.
    while len(result) < size:
        result = torch.kron(result, base)
    if len(result) != size:
        raise ValueError(f"rotations of {size} inputs are not supported; only powers of 4 are")
    return result


# Older torch has no dtype for the exponents of blocks; bytes stand for it.
_E8M0 = getattr(torch, "float8_e8m0fnu", torch.uint8)


def _nvfp4(name: str, weight: Tensor, block_scale: Tensor, scale: Tensor) -> Tensor:
    """Decode NVFP4 to float32 (O, I): E2M1 value x scale of its block of 16 inputs x scale of the tensor.

    ``weight`` (O, I / 2) has two values per byte, for O outputs and I inputs. ``block_scale`` is in cuBLAS's
    tiled layout, ``scale`` is a single number. ``name`` is the layer, for errors.
    """
    values = (*E2M1, *(-magnitude for magnitude in E2M1))
    # The even element of each pair is in the high nibble. One look-up per byte gives both.
    pairs = torch.tensor([(high, low) for high in values for low in values], device=weight.device)
    decoded = pairs.index_select(0, weight.reshape(-1).int())
    blocks = rearrange(
        decoded, "(o n j) two -> o n (j two)", o=weight.shape[0], j=_divide(name, weight, NVFP4_BLOCK // 2)
    )
    stored = block_scale.view(torch.float8_e4m3fn) if block_scale.dtype == torch.uint8 else block_scale
    scales = _untiled(name, stored.float(), blocks) * scale.float().reshape(())
    return rearrange(blocks * scales[..., None], "o n block -> o (n block)")


def _mxfp8(name: str, weight: Tensor, block_scale: Tensor) -> Tensor:
    """Decode MXFP8 to float32 (O, I): fp8 value x 2^(exponent of its block of 32 inputs).

    ``weight`` is (O, I), for O outputs and I inputs. ``block_scale`` has the exponents, plus 127, as bytes in
    cuBLAS's tiled layout. ``name`` is the layer, for errors.
    """
    blocks = rearrange(weight.float(), "o (n b) -> o n b", b=_divide(name, weight, MXFP8_BLOCK))
    exponents = _untiled(name, block_scale.view(torch.uint8).float(), blocks)
    # The exponent has the bias of float32.
    return rearrange(blocks * torch.exp2(exponents - 127)[..., None], "o n b -> o (n b)")


def _unrotate(name: str, weight: Tensor, group: int) -> Tensor:
    groups = rearrange(weight, "o (n g) -> o n g", g=_divide(name, weight, group))
    # The rotation is its own inverse.
    return rearrange(groups @ hadamard(group).to(weight.device), "o n g -> o (n g)")


def _untiled(name: str, stored: Tensor, blocks: Tensor) -> Tensor:
    rows, columns = blocks.shape[:2]
    tiled = (-(-rows // 128) * 128, -(-columns // 4) * 4)
    if tuple(stored.shape) != tiled:
        raise ValueError(f"{name}.weight_scale is {tuple(stored.shape)}; a weight of this size needs {tiled}")
    return untile_block_scales(stored, rows, columns)


def _divide(name: str, weight: Tensor, block: int) -> int:
    if weight.ndim != 2 or weight.shape[-1] % block:
        raise ValueError(
            f"{name}.weight of shape {tuple(weight.shape)} does not split into blocks of {block}"
        )
    return block


def _broadcast(name: str, scale: Tensor, weight: Tensor, *, rows: bool) -> Tensor:
    if scale.numel() == 1:
        return scale.float().reshape(())
    if rows and scale.numel() == weight.shape[0]:
        return scale.float().reshape(-1, *(1,) * (weight.ndim - 1))
    raise ValueError(f"{name}: one scale per tensor is supported; got scales {tuple(scale.shape)}")

"""Linear layers that hold their weight in the stored, quantised format and decode it in every forward pass.

Letters: O output features, I input features.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dequantize import COMPANIONS, FP8_MAX, PACKED, SCALE_NAMES, Format, decode, format_of, logical_shape
from .files import ParsedJson
from .gguf import stored_shape
from .gguf_blocks import BLOCKS
from .header import TensorInfo
from .int8_product import fits_int8_product, int8_product, round_int8, supports_int8_matmul
from .kitchen import (
    Int8,
    fp8_product,
    int8_linear,
    kitchen_problem,
    mxfp8_product,
    nvfp4_product,
    round_fp8,
    round_mxfp8,
    round_nvfp4,
)
from .quantize import encode

TORCH_DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": getattr(torch, "float8_e8m0fnu", torch.uint8),
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""dtype name in a safetensors header -> torch dtype."""

STORED_DTYPES: Mapping[str, torch.dtype] = {**TORCH_DTYPES, **dict.fromkeys(BLOCKS, torch.uint8)}
"""dtype name of a header entry -> torch dtype of the stored tensor; blocks of GGUF files are bytes."""

QUANTISED_DTYPES = ("F8_E4M3", "F8_E5M2", "U8", "I8", *BLOCKS)
"""dtypes of weights that count as quantised even without companion tensors."""


@dataclass(frozen=True)
class StoredLayer:
    """One quantised layer of a file, described by its header entries.

    ``form`` is the format, ``infos`` has the entries of its weight and of the tensors that accompany it, such
    as scales.
    """

    name: str
    form: Format
    infos: Mapping[str, TensorInfo]
    """Suffix (``weight`` or a companion's name) -> header entry."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the decoded weight, including padding to whole blocks."""
        weight = self.infos["weight"]
        if self.form.kind == "gguf":
            return weight.shape
        return logical_shape(STORED_DTYPES[weight.dtype], weight.shape, packed=self.form.kind in PACKED)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the decoded weight fits a layer of ``shape``, except for padding to whole blocks."""
        if self.form.kind == "float" or self.shape == shape or len(self.shape) != len(shape):
            return self.shape == shape
        block = {"nvfp4": 16, "mxfp8": 32}.get(self.form.kind, 1)
        return self.shape == tuple(-(-size // block) * block for size in shape)


def find_quantized(
    infos: Mapping[str, TensorInfo], markers: Mapping[str, ParsedJson]
) -> dict[str, StoredLayer]:
    """Find the quantised layers of a file: name of the layer -> its description.

    ``infos`` maps official tensor names to header entries, ``markers`` maps the name of a layer to the JSON
    object that describes its format (see :func:`.dequantize.format_of`). A layer is quantised if its weight
    has a dtype of ``QUANTISED_DTYPES`` or companion tensors such as scales.

    Raises:
        ValueError: a format or dtype is not supported, or a companion has no weight.
    """
    layers: dict[str, StoredLayer] = {}
    for name in infos:
        layer, _, last = name.rpartition(".")
        weight = f"{layer}.weight"
        quantised = infos[name].dtype in QUANTISED_DTYPES and last == "weight"
        # Companions come in any order, and the first of a layer describes all of it.
        if layer in layers or not (last in COMPANIONS or quantised):
            continue
        if weight not in infos:
            raise ValueError(f"{name} belongs to a quantised weight, but {weight} is missing")
        own = {s: infos[f"{layer}.{s}"] for s in ("weight", *COMPANIONS) if f"{layer}.{s}" in infos}
        unknown = [f"{layer}.{s} ({i.dtype})" for s, i in own.items() if i.dtype not in STORED_DTYPES]
        if unknown:
            raise ValueError(f"quantised tensors of a dtype that is not supported: {', '.join(unknown)}")
        dtypes = {suffix: STORED_DTYPES[info.dtype] for suffix, info in own.items()}
        block = own["weight"].dtype
        form = (
            Format("gguf", block=block) if block in BLOCKS else format_of(layer, dtypes, markers.get(layer))
        )
        layers[layer] = StoredLayer(layer, form, own)
    return layers


class QuantizedLinear(nn.Module):
    """A linear layer with a quantised weight. The decoded weight exists only during a forward pass.

    By default the weight is decoded to float32, cast to the input's dtype and multiplied there. With
    ``fp8_matmul`` fp8 layers are multiplied in fp8 instead, which rounds the input to fp8 too, where the
    device supports it (:func:`supports_fp8_matmul`) and the kernel takes the input's dtype and the layer's
    size; MXFP8 layers are, where comfy-kitchen computes them. ``nvfp4_matmul`` does the same for NVFP4 layers
    (:func:`supports_nvfp4_matmul`), and ``int8_matmul`` for int8 ones
    (:func:`~.int8_product.supports_int8_matmul`). Kernels of comfy-kitchen are used where it is installed.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        linear: nn.Linear,
        layer: StoredLayer,
        *,
        fp8_matmul: bool = False,
        nvfp4_matmul: bool = False,
        int8_matmul: bool = False,
    ) -> None:
        """Create the replacement of ``linear`` for the stored ``layer``; the flags are those of the class.

        Its tensors are on ``meta`` until a state dict is assigned.
        """
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.form = layer.form
        self.name = layer.name
        self.fp8_matmul = fp8_matmul
        self.nvfp4_matmul = nvfp4_matmul
        self.int8_matmul = int8_matmul
        self.companions = tuple(suffix for suffix in layer.infos if suffix != "weight")
        # On the meta device, since the tensors of the file are assigned later.
        for suffix, info in layer.infos.items():
            shape = stored_shape(info) if info.dtype in BLOCKS else info.shape
            self.register_buffer(suffix, torch.empty(shape, dtype=STORED_DTYPES[info.dtype], device="meta"))
        bias = linear.bias is not None
        self.bias = nn.Parameter(torch.empty(linear.out_features, device="meta")) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Multiply x (..., I) by the weight: (..., O) in the dtype of ``x``, for I inputs and O outputs."""
        if self.rounding(x) is not None:
            return self.product(self.rounded(x), x)
        bias = None if self.bias is None else self.bias.to(device=x.device, dtype=x.dtype)
        if self.int8_matmul and self._is_int8_ready(x):
            # comfy-kitchen rounds and multiplies in one call.
            flat = x.reshape(-1, self.in_features)
            out = int8_linear(flat, self.weight.to(x.device), self._scale(x), bias, self.form.rotation)
            return out.reshape(*x.shape[:-1], self.out_features)
        # Decoded in float32 and rounded once: products of scales in bfloat16 would be rounded twice.
        return F.linear(x, self.decoded(x.device).to(x.dtype), bias)

    def rounding(self, x: Tensor) -> str | None:
        """Number format to which x is rounded for the product, such as "fp8", or None if it is not.

        Layers of one format round x alike, so that one :meth:`rounded` serves them all.
        """
        if self.fp8_matmul and self._is_fp8_ready(x):
            return "fp8"
        if self.fp8_matmul and self._is_mxfp8_ready(x):
            return "mxfp8"
        if self.int8_matmul and self._is_int8_ready(x) and kitchen_problem("int8", x.device, self._kernel()):
            return f"int8, rotated by {self.form.rotation}"
        return "nvfp4" if self.nvfp4_matmul and self._is_nvfp4_ready(x) else None

    def rounded(self, x: Tensor) -> Mapping[str, Tensor]:
        """x (..., I) in the format of :meth:`rounding`, with its scales."""
        flat = x.reshape(-1, self.in_features)
        if self.form.kind == "int8":
            codes, rows = round_int8(flat, self.form.rotation)
            return {"weight": codes, "scale": rows}
        if self.form == Format("nvfp4"):
            by_kitchen = kitchen_problem("nvfp4", x.device) is None
            return round_nvfp4(flat) if by_kitchen else encode(self.form, flat)
        if self.form == Format("mxfp8"):
            return round_mxfp8(flat)
        if kitchen_problem("fp8", x.device) is None:
            return round_fp8(flat)
        # The scale is computed from this input, because the fixed one of some files can clip.
        scale = (flat.abs().amax().float() / FP8_MAX).clamp(min=1e-12)
        return {
            "weight": (flat.float() / scale).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn),
            "scale": scale,
        }

    def product(self, rounded: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The output (..., O) for x (..., I), of which ``rounded`` is the result of :meth:`rounded`."""
        bias = None if self.bias is None else self.bias.to(device=x.device, dtype=x.dtype)
        kinds = {"int8": self._int8, "nvfp4": self._nvfp4, "mxfp8": self._mxfp8}
        out = kinds.get(self.form.kind, self._fp8)(rounded, x, bias)
        return out.reshape(*x.shape[:-1], self.out_features)

    def decoded(self, device: torch.device | None = None) -> Tensor:
        """Decode the weight: (O, I) in float32 on ``device``, by default where the stored weight is."""
        tensors = {suffix: getattr(self, suffix).to(device) for suffix in ("weight", *self.companions)}
        return decode(self.name, self.form, tensors, (self.out_features, self.in_features))

    def extra_repr(self) -> str:
        stored = self.form.block or str(self.weight.dtype).removeprefix("torch.")
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.form.kind} {stored}"

    def _is_fp8_ready(self, x: Tensor) -> bool:
        return (
            self.form == Format("float")
            and self.weight.dtype == torch.float8_e4m3fn
            and x.dtype in (torch.bfloat16, torch.float16)
            # Sizes that the kernel does not take are decoded instead.
            and self.in_features % 16 == self.out_features % 16 == 0
            and supports_fp8_matmul(x.device)
        )

    def _is_int8_ready(self, x: Tensor) -> bool:
        stored = self.form.kind == "int8" and not self.form.full_precision and self.weight.ndim == 2
        return stored and fits_int8_product(self.weight) and supports_int8_matmul(x.device)

    def _is_mxfp8_ready(self, x: Tensor) -> bool:
        whole = self.in_features % 32 == self.out_features % 32 == 0
        ready = self.form == Format("mxfp8") and x.dtype == torch.bfloat16 and whole
        return ready and kitchen_problem("mxfp8", x.device) is None

    def _kernel(self) -> Int8:
        scale = next((self.get_buffer(s) for s in SCALE_NAMES if s in self.companions), None)
        return Int8(self.form.rotation, scale is None or scale.numel() == 1, self.bias is not None)

    def _scale(self, x: Tensor) -> Tensor:
        scale = next((getattr(self, s) for s in SCALE_NAMES if s in self.companions), None)
        return torch.ones((), device=x.device) if scale is None else scale.to(x.device)

    def _int8(self, rounded: Mapping[str, Tensor], x: Tensor, bias: Tensor | None) -> Tensor:
        out = int8_product(rounded["weight"], rounded["scale"], self.weight.to(x.device), self._scale(x))
        return (out if bias is None else out + bias.float()).to(x.dtype)

    def _mxfp8(self, rounded: Mapping[str, Tensor], x: Tensor, bias: Tensor | None) -> Tensor:
        stored = {suffix: self.get_buffer(suffix).to(x.device) for suffix in ("weight", "weight_scale")}
        return mxfp8_product(rounded, stored, bias, x.dtype)[: x.numel() // self.in_features]

    def _is_nvfp4_ready(self, x: Tensor) -> bool:
        return (
            self.form == Format("nvfp4")
            # The product before it is scaled exceeds the range of float16.
            and x.dtype == torch.bfloat16
            and self.in_features % 32 == self.out_features % 16 == 0
            and supports_nvfp4_matmul(x.device)
        )

    def _fp8(self, rounded: Mapping[str, Tensor], x: Tensor, bias: Tensor | None) -> Tensor:
        return fp8_product(rounded, self.weight.to(x.device), self._scale(x), bias, x.dtype)

    def _nvfp4(self, rounded: Mapping[str, Tensor], x: Tensor, bias: Tensor | None) -> Tensor:
        # Files pack the two values of a byte in another order than torch. Both operands are packed alike, so
        # the product is the same. This path follows torch's documentation and has not run on hardware.
        if kitchen_problem("nvfp4", x.device) is None:
            stored = {
                s: self.get_buffer(s).to(x.device) for s in ("weight", "weight_scale", "weight_scale_2")
            }
            return nvfp4_product(rounded, stored, bias, x.dtype)[: x.numel() // self.in_features]
        packed: torch.dtype = torch.float4_e2m1fn_x2
        block_scale = self.get_buffer("weight_scale").to(x.device).view(torch.float8_e4m3fn)
        out: Tensor = torch._scaled_mm(
            rounded["weight"].view(packed),
            self.weight.to(x.device).view(packed).t(),
            scale_a=rounded["weight_scale"].reshape(-1),
            scale_b=block_scale.reshape(-1),
            out_dtype=x.dtype,
        )
        scale = rounded["weight_scale_2"] * self.get_buffer("weight_scale_2").to(
            x.device, torch.float32
        ).reshape(())
        out = out[: x.numel() // self.in_features] * scale.to(x.dtype)
        return out if bias is None else out + bias


def replace_linears(
    network: nn.Module,
    layers: Iterable[StoredLayer],
    plain: nn.Module | None = None,
    *,
    fp8_matmul: bool = False,
    nvfp4_matmul: bool = False,
    int8_matmul: bool = False,
) -> frozenset[str]:
    """Replace those linear layers of ``network`` that ``layers`` describes by :class:`QuantizedLinear`.

    Returns the names of the replaced layers. ``plain`` is the same network built with ``torch.nn`` layers,
    needed if the layers of ``network`` have no parameters yet, else None. The three flags are those of
    :class:`QuantizedLinear`. Quantised tensors of other modules (convolutions, norms, tables cast to fp8) are
    not replaced and must be decoded while loading.
    """
    replaced = []
    for layer in layers:
        parent_name, _, child = layer.name.rpartition(".")
        try:
            parent = network.get_submodule(parent_name)
            linear = (network if plain is None else plain).get_submodule(layer.name)
        # Layers of another component, or tensors that belong to no module of this network.
        except AttributeError:
            continue
        if isinstance(linear, nn.Linear):
            stored = QuantizedLinear(
                linear, layer, fp8_matmul=fp8_matmul, nvfp4_matmul=nvfp4_matmul, int8_matmul=int8_matmul
            )
            parent.register_module(child, stored)
            replaced.append(layer.name)
    return frozenset(replaced)


def supports_fp8_matmul(device: torch.device) -> bool:
    """Whether ``device`` multiplies fp8 matrices with ``torch._scaled_mm``.

    NVIDIA devices of compute capability 8.9 or newer do.
    """
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    # Ada and Hopper are the first generations that multiply fp8 in hardware.
    return hasattr(torch, "_scaled_mm") and torch.cuda.get_device_capability(device) >= (8, 9)


def supports_nvfp4_matmul(device: torch.device) -> bool:
    """Whether ``device`` multiplies NVFP4 matrices.

    NVIDIA devices of compute capability 10.0 or newer do, with torch 2.8 or newer.
    """
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    # Blackwell is the first generation with tensor cores for four bits.
    return hasattr(torch, "float4_e2m1fn_x2") and torch.cuda.get_device_capability(device) >= (10, 0)


def check_matmul(
    device: torch.device, *, fp8_matmul: bool, nvfp4_matmul: bool, int8_matmul: bool = False
) -> None:
    """Raise ValueError if one of the flags is set and ``device`` does not support its products."""
    if int8_matmul and not supports_int8_matmul(device):
        raise ValueError(
            f"int8_matmul needs a CPU or an NVIDIA GPU of compute capability 7.5 or newer; the device is "
            f"{device}. Leave int8_matmul off: quantised layers are then decoded when they are used"
        )
    for enabled, supports, option, needed in (
        (fp8_matmul, supports_fp8_matmul, "fp8_matmul", "8.9 or newer (Ada, Hopper, Blackwell)"),
        (nvfp4_matmul, supports_nvfp4_matmul, "nvfp4_matmul", "10.0 or newer (Blackwell) and torch 2.8"),
    ):
        if enabled and not supports(device):
            found = ""
            if device.type == "cuda" and torch.version.hip is None:
                found = " of capability {}.{}".format(*torch.cuda.get_device_capability(device))
            raise ValueError(
                f"{option} needs an NVIDIA GPU of compute capability {needed}; "
                f"the device is {device}{found}. "
                f"Leave {option} off: quantised layers are then decoded when they are used"
            )


def loaded_bytes(infos: Iterable[TensorInfo], dtype: torch.dtype, *, changed: bool = False) -> int:
    """Bytes of the tensors ``infos`` after loading in ``dtype``; of quantised ones, bytes in the file.

    With ``changed`` a LoRA changes every layer, which makes blocks of GGUF files Q8_0.
    """

    def size(info: TensorInfo) -> int:
        if changed and info.dtype in BLOCKS:
            return info.numel * 34 // 32
        return info.nbytes if info.dtype in QUANTISED_DTYPES else info.numel * dtype.itemsize

    return sum(map(size, infos))

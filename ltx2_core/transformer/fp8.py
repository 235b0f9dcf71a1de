"""Linear layers that multiply in fp8, with a scale for each output row of the weight and each token.

The first and the last block, modulation, gates and everything outside the blocks stay as they are.
Letters: M tokens, O output features, I input features.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

import torch
from torch import Tensor, nn

from ..kernels.quantize_rows import formula as quantize_rows
from ..storage.dequantize import SCALE_NAMES, Format
from ..storage.header import TensorInfo
from ..storage.quantized import QUANTISED_DTYPES, QuantizedLinear
from .fused import Fused
from .model import Transformer

_log = logging.getLogger(__name__)

_ALIGNED = 16
"""The kernels need sizes of a product that are a multiple of this."""

Product = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, torch.dtype], Tensor]
"""Of x (M, I) fp8 and scales (M, 1), weight (O, I) fp8 and scales (O, 1), bias (O,) -> (M, O) in a dtype."""


def exact_product(
    x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """x (M, I) times the transpose of weight (O, I), plus bias (O,) -> (M, O) in ``dtype``, on any device.

    M tokens, I inputs, O outputs. x and weight are fp8 with scales (M, 1) and (O, 1). They are multiplied in
    float32: the reference that :func:`kernel_product` is compared with.
    """
    out = (x.float() * x_scale) @ (weight.float() * weight_scale).mT
    return (out if bias is None else out + bias.float()).to(dtype)


def kernel_product(
    x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """As :func:`exact_product`, by the fp8 kernel of an NVIDIA GPU; the product is rounded to bfloat16.

    It can be used where :func:`fp8_problem` returns None.
    """
    out: Tensor = torch._scaled_mm(
        x, weight.t(), scale_a=x_scale, scale_b=weight_scale.t(), bias=bias, out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )  # fmt: skip
    return out.to(dtype)


class Fp8Linear(nn.Module):
    """A linear layer whose weight is stored and multiplied in fp8; its input is rounded to fp8, too."""

    weight: Tensor
    weight_scale: Tensor

    def __init__(
        self,
        weight: Tensor,
        weight_scale: Tensor,
        bias: Tensor | None,
        product: Product,
        fused: Fused | None = None,
    ) -> None:
        """Make a layer of O outputs and I inputs.

        ``weight`` is (O, I) in float8_e4m3fn, ``weight_scale`` (O, 1) in float32, ``bias`` (O,) or None.
        ``product`` multiplies, for example :func:`kernel_product`. With ``fused`` the input is rounded to fp8
        by one kernel.
        """
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", weight_scale)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self._product = product
        self._quantize = quantize_rows if fused is None else fused.quantize_rows

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> (..., O) in the dtype of ``x``, for I input and O output features."""
        return self.product(self.rounded(x), x)

    def rounding(self, x: Tensor) -> object | None:  # noqa: ARG002 other layers decide by it
        """The same for all layers of this class: see :class:`.products.RoundsInput`."""
        return type(self)

    def rounded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Round x (..., I) to fp8: rows (M, I), and a scale for each (M, 1)."""
        return self._quantize(x.reshape(-1, self.in_features))

    def product(self, rounded: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        """The output (..., O) for x (..., I), of which ``rounded`` is the result of :meth:`rounded`."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        out = self._product(*rounded, self.weight, self.weight_scale, bias, x.dtype)
        return out.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, fp8 by rows"


def use_fp8(
    transformer: Transformer,
    product: Product,
    device: torch.device | None = None,
    *,
    fused: Fused | None = None,
) -> int:
    """Replace each large linear layer by an :class:`Fp8Linear`, except in the first and the last block.

    Weights are rounded on ``device`` (None: where they are) and stored where they were, one layer after
    another, so that the network never exists twice. Weights that a file stores in fp8 with one scale are used
    as they are. ``product`` multiplies; with ``fused`` inputs are rounded by one kernel. Returns how
    many layers were replaced; layers that were replaced before are not counted.
    """
    count = 0
    for parent, name, layer in list(_large_layers(transformer)):
        setattr(parent, name, _fp8_layer(layer, product, device, fused))
        count += 1
    return count


def fp8_saving(infos: Mapping[str, TensorInfo], dtype: torch.dtype) -> int:
    """Bytes by which :func:`use_fp8` makes each block except the first and the last smaller.

    ``infos`` maps the network's parameter names to dtype and shape, as in the header of a file. ``dtype`` is
    what weights have without fp8. Layers that the file stores quantised save nothing.
    """
    saved = 0
    for name, info in infos.items():
        # Block 1 stands for all that are converted; block 0 is not one of them.
        if not (name.startswith("transformer_blocks.1.") and name.endswith(".weight")):
            continue
        if info.dtype in QUANTISED_DTYPES or len(info.shape) != 2 or ".to_gate_logits." in name:
            continue
        if info.shape[0] % _ALIGNED == info.shape[1] % _ALIGNED == 0:
            saved += info.numel * (dtype.itemsize - 1) - info.shape[0] * torch.float32.itemsize
    return saved


def is_fp8(network: nn.Module) -> bool:
    """Whether :func:`use_fp8` has replaced layers of a network; LoRAs cannot be added to their weights."""
    return any(isinstance(module, Fp8Linear) for module in network.modules())


def fp8_problem(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why :func:`kernel_product` cannot be used on ``device`` for a run in ``dtype``; None if it can.

    On a GPU that may have the kernel, a small product is computed and compared with the exact one.
    """
    # A build of torch for AMD names its devices cuda, too.
    if device.type != "cuda" or torch.version.hip is not None:
        return f"products in fp8 need an NVIDIA GPU; the device is {device}"
    if dtype != torch.bfloat16:
        return f"products in fp8 give bfloat16; the run computes in {dtype}".replace("torch.", "")
    return _trial(device.index or 0)


@lru_cache(maxsize=16)
def _trial(index: int) -> str | None:
    """Why :func:`kernel_product` fails or is wrong on CUDA device number ``index``; None if it is right."""
    device = torch.device("cuda", index)
    found = "{}.{}".format(*torch.cuda.get_device_capability(device))
    if torch.cuda.get_device_capability(device) < (8, 9):
        return f"products in fp8 need compute capability 8.9 (Ada, Hopper or newer); {device} has {found}"
    generator = torch.Generator(device).manual_seed(0)
    # Rows differ in size a hundredfold, so that a kernel that uses one scale for all of them fails the trial.
    x, w = (
        torch.randn(size, 256, device=device, dtype=torch.bfloat16, generator=generator)
        * torch.logspace(-1, 1, size, device=device, dtype=torch.bfloat16)[:, None]
        for size in (48, 128)
    )
    factors = (*quantize_rows(x), *quantize_rows(w), torch.ones(128, device=device, dtype=torch.bfloat16))
    try:
        product = kernel_product(*factors, torch.bfloat16)
    except (RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"this PyTorch has no fp8 product with scales a row for capability {found}: {first}"
    exact = exact_product(*factors, torch.float32)
    wrong = float((product.float() - exact).norm() / exact.norm())
    # bfloat16 and the fast accumulation of the kernel differ from the exact product by a few thousandths; a
    # kernel with the wrong scales is off by far more than a hundredth.
    return None if wrong < 0.01 else f"the fp8 product of {device} is off by {wrong:.1%} in a trial"


def _large_layers(transformer: Transformer) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    # All later blocks inherit the errors of the first one, and no later block corrects those of the last.
    for block in transformer.transformer_blocks[1:-1]:
        for parent in block.modules():
            for name, layer in parent.named_children():
                # Gates have one output per head: too narrow for the kernel to pay, and each rounding scales a
                # whole head.
                if name != "to_gate_logits" and _fits(layer):
                    yield parent, name, layer


def _fits(layer: nn.Module) -> bool:
    if isinstance(layer, QuantizedLinear):
        plain = layer.form == Format("float") and layer.weight.dtype == torch.float8_e4m3fn
        return plain and layer.in_features % _ALIGNED == layer.out_features % _ALIGNED == 0
    return type(layer) is nn.Linear and layer.in_features % _ALIGNED == layer.out_features % _ALIGNED == 0


def _fp8_layer(
    layer: nn.Module, product: Product, device: torch.device | None, fused: Fused | None
) -> Fp8Linear:
    if isinstance(layer, QuantizedLinear):
        scale = next((getattr(layer, s) for s in SCALE_NAMES if s in layer.companions), torch.ones(()))
        # One scale for the tensor becomes the same scale for each row: the kernel takes scales by rows only,
        # and the stored weight need not be rounded a second time.
        rows = scale.to(layer.weight.device, torch.float32).reshape(1, 1).expand(layer.out_features, 1)
        return Fp8Linear(layer.weight, rows.contiguous(), layer.bias, product, fused)
    assert isinstance(layer, nn.Linear)
    home = layer.weight.device
    # Rounded on the GPU if there is one, where a layer takes milliseconds, and returned at once so that only
    # one layer needs room there.
    stored, scale = quantize_rows(layer.weight.detach().to(device))
    return Fp8Linear(stored.to(home), scale.to(home), layer.bias, product, fused)

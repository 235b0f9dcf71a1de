"""Layers that compute in float32 whatever the checkpoint's dtype: rounding to bfloat16 would be audible."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Layers:
    """Factory for the layers of one network, which compute in float32.

    With ``operations`` = torch.nn, layers store weights in ``dtype`` on ``device`` and cast them to float32
    in the forward pass. Another namespace (a host's layers) must compute in the dtype of the input by itself.
    """

    operations: Any
    dtype: torch.dtype | None
    device: torch.device | str | None

    def conv1d(
        self, inner: int, outer: int, kernel: int, *, dilation: int = 1, bias: bool = True
    ) -> nn.Module:
        """1-D convolution from ``inner`` to ``outer`` channels, padded so that the length does not change.

        ``kernel`` is an odd number of taps, ``dilation`` their distance in samples.
        """
        padding = dilation * (kernel - 1) // 2
        return self._make("Conv1d", inner, outer, kernel, padding=padding, dilation=dilation, bias=bias)

    def conv2d(self, inner: int, outer: int, kernel: int, *, stride: int = 1) -> nn.Module:
        """2-D convolution from ``inner`` to ``outer`` channels, without padding."""
        return self._make("Conv2d", inner, outer, kernel, stride=stride)

    def conv_transpose1d(self, inner: int, outer: int, kernel: int, *, stride: int) -> nn.Module:
        """1-D transposed convolution from ``inner`` to ``outer`` channels, exactly ``stride`` times as long.

        Raises ValueError for a ``kernel`` (number of taps) with which that length is impossible.
        """
        # Otherwise the output would be a sample too long or too short for its rate.
        if kernel < stride or (kernel - stride) % 2:
            raise ValueError(
                f"upsampling by {stride} with kernel {kernel}: kernel - rate must be even and not negative"
            )
        padding = (kernel - stride) // 2
        return self._make("ConvTranspose1d", inner, outer, kernel, stride=stride, padding=padding)

    def constant(self, values: Any) -> Tensor:
        """``values`` as a tensor for a buffer or parameter, in the network's dtype and on its device."""
        return torch.as_tensor(values, dtype=self.dtype or torch.float32, device=self.device)

    def _make(self, name: str, *args: int, **options: Any) -> nn.Module:
        # A host's layers cast their weights themselves, so only torch's need the upcasting variants.
        namespace = UpcastLayers if self.operations is nn else self.operations
        layer: nn.Module = getattr(namespace, name)(*args, **options, dtype=self.dtype, device=self.device)
        return layer


class _Conv1d(nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._conv_forward(x, self.weight.float(), _float(self.bias))
        return out


class _Conv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._conv_forward(x, self.weight.float(), _float(self.bias))
        return out


class _ConvTranspose1d(nn.ConvTranspose1d):
    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        assert output_size is None
        padding = [int(n) for n in self.padding]
        return F.conv_transpose1d(x, self.weight.float(), _float(self.bias), self.stride, padding)


class UpcastLayers:
    """torch.nn layers with weights in any dtype that compute in float32."""

    Conv1d = _Conv1d
    Conv2d = _Conv2d
    ConvTranspose1d = _ConvTranspose1d


@contextmanager
def in_float32(device: torch.device) -> Iterator[None]:
    """A context in which float32 tensors on ``device`` are computed in float32, and nothing less.

    Autocast is off in it, and so is TF32, to which PyTorch rounds the inputs of CUDA convolutions by default:
    10 bits of mantissa, which are heard as noise in quiet passages.
    """
    # Some device types have no autocast, and asking for it raises an error there.
    available = torch.amp.autocast_mode.is_autocast_available(device.type)
    # From torch 2.9 on convolutions have a setting of their own. The older one of all of cuDNN cannot be read
    # there once a program has used the newer one.
    cudnn = torch.backends.cudnn
    convolutions = getattr(cudnn, "conv", None)
    newer = hasattr(convolutions, "fp32_precision")
    owner, name, exact = (convolutions, "fp32_precision", "ieee") if newer else (cudnn, "allow_tf32", False)
    before = getattr(owner, name)
    setattr(owner, name, exact)
    try:
        with torch.autocast(device.type, enabled=False) if available else nullcontext():
            yield
    finally:
        setattr(owner, name, before)


def _float(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.float()

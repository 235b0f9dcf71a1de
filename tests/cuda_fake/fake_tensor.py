"""A tensor that says it is on ``cuda:0`` and holds its values in memory of the CPU."""

from __future__ import annotations

from typing import Any

import torch

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")


class DeviceError(RuntimeError):
    """What a CUDA device would refuse, or what would silently be wrong on one."""


class Active:
    """The pretended device that is switched on, which computes what threads other than its own ask for."""

    device: Any = None


class DeviceTensor(torch.Tensor):
    """A tensor on the pretended device; ``host`` are its values."""

    host: torch.Tensor

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> DeviceTensor:
        # A wrapper that is an inference tensor could not become a parameter.
        with torch.inference_mode(False):
            made: Any = torch.Tensor._make_wrapper_subclass(
                cls,
                host.size(),
                strides=host.stride(),
                storage_offset=host.storage_offset(),
                dtype=host.dtype,
                layout=host.layout,
                device=CUDA,
            )
        made.host = host
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the device: modes belong to a thread, and weights are copied by another one."""
        if Active.device is None:
            raise DeviceError(f"{func}: the pretended device is switched off")
        return Active.device.run(func, args, kwargs or {})

    def data_ptr(self) -> int:
        return self.host.data_ptr()

    def untyped_storage(self) -> Any:
        return self.host.untyped_storage()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def tolist(self) -> Any:
        Active.device.wait("tolist")
        return self.host.tolist()

    def record_stream(self, stream: Any) -> None:
        """Nothing: memory is freed when the last name for it is."""

    def is_pinned(self, *_: Any) -> bool:
        return False

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"DeviceTensor({tuple(self.shape)}, {self.dtype})"


def values(tensor: Any) -> Any:
    """The values of a tensor of either device on the CPU; anything else as it is."""
    return tensor.host if isinstance(tensor, DeviceTensor) else tensor

"""``pretend()``: a context in which ``device="cuda"`` is a pretended device, on any machine.

As on a GPU, an operation raises where its tensors are on two devices, and a graph refuses what may not be
recorded. What makes the CPU wait for the device is counted by lines of the project. Streams run at once, but
copies to pinned memory arrive only when somebody waits for them. Results are those of the CPU.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch._dynamo  # lists the functions of torch.cuda when it is imported, and must find the real ones
from fake_device import FakeDevice
from fake_graph import Graph
from fake_tensor import CPU, CUDA, Active, DeviceError, DeviceTensor, values
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

MEMORY = 24 * 10**9


class Functions(TorchFunctionMode):
    """What does not come to the device as one operation: ``.data``, pinning, attention."""

    def __init__(self, device: FakeDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if func == torch.Tensor.data.__set__:
            return _set_data(*args)
        if name == "pin_memory" and not isinstance(args[0], DeviceTensor):
            return self.device.pin(args[0])
        if name == "is_pinned":
            return not isinstance(args[0], DeviceTensor) and self.device.pinned.has(args[0])
        if name in ("data_ptr", "untyped_storage", "numpy", "tolist", "record_stream"):
            return getattr(args[0], name)(*args[1:], **(kwargs or {})) if _is_ours(args[0]) else func(*args)
        if func is F.scaled_dot_product_attention and any(map(_is_ours, args)):
            return self._attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _attention(self, q: Any, k: Any, v: Any, attn_mask: Any = None, **more: Any) -> Any:
        given = [t for t in (q, k, v, attn_mask) if t is not None]
        if not all(map(_is_ours, given)):
            raise DeviceError(f"attention of tensors on {[str(t.device) for t in given]}")
        if attn_mask is not None and attn_mask.dtype not in (torch.bool, q.dtype):
            raise DeviceError(f"attention: the mask is {attn_mask.dtype}, the queries are {q.dtype}")
        self.device.masked += attn_mask is not None
        own = [values(t) for t in (q, k, v)]
        more["attn_mask"] = values(attn_mask)
        with torch._C.DisableTorchFunction():
            out = F.scaled_dot_product_attention(*own, **more)
        self.device.count("attention", F.scaled_dot_product_attention, own, more, out, mutable=False)
        return DeviceTensor(out)


def _is_ours(value: Any) -> bool:
    return isinstance(value, DeviceTensor)


def _set_data(target: torch.Tensor, source: torch.Tensor) -> None:
    with torch._C.DisableTorchFunction():
        if not _is_ours(target) and not _is_ours(source):
            torch.Tensor.data.__set__(target, source)  # type: ignore[attr-defined]
            return
        new = source.detach()
        if isinstance(target, torch.nn.Parameter):
            new = torch.nn.Parameter(new, requires_grad=False)
        torch.utils.swap_tensors(target, new)


class Event:
    """A place in the order of copies."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._point: int | None = None

    def record(self, _stream: Any = None) -> None:
        self._point = _device().pending.point()

    def synchronize(self) -> None:
        if self._point is not None:
            _device().wait("event", self._point)

    def wait(self, _stream: Any = None) -> None:
        """Streams wait for each other without the CPU."""

    def query(self) -> bool:
        return False

    def elapsed_time(self, _end: Event) -> float:
        return 1.0


class Stream:
    """A stream, whose kernels run at once."""

    cuda_stream = 0
    device = CUDA

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        assert isinstance(event, Event)

    def wait_stream(self, stream: Stream) -> None:
        assert isinstance(stream, Stream)

    def synchronize(self) -> None:
        _device().wait("stream")


class CUDAGraph:
    """A graph whose replay computes what was recorded."""

    def __init__(self) -> None:
        self.recorded = Graph()

    def replay(self) -> None:
        self.recorded.replay()


@contextlib.contextmanager
def _recording(graph: CUDAGraph, **_: Any) -> Iterator[None]:
    device = _device()
    device.graph = graph.recorded
    device.graphs.append(graph.recorded)
    try:
        yield
    finally:
        device.graph = None


class Generator(torch.Generator):
    """A random generator of either device; that of the pretended one draws on the CPU."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        made: Any = super().__new__(cls, "cpu")
        made.asked = CUDA if torch.device(device).type == "cuda" else CPU
        return made

    def __init__(self, device: Any = "cpu") -> None:
        pass

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.asked


def _device() -> FakeDevice:
    assert isinstance(Active.device, FakeDevice)
    return Active.device


def _functions(capability: tuple[int, int]) -> dict[str, Any]:
    """What replaces the functions of ``torch.cuda``."""
    about = SimpleNamespace(total_memory=MEMORY, major=capability[0], minor=capability[1], name="pretended")

    def nothing(*_: Any, **__: Any) -> None:
        pass

    def none_used(*_: Any) -> int:
        return 0

    return {
        **dict.fromkeys(
            (
                "_lazy_init",
                "set_device",
                "set_per_process_memory_fraction",
                "reset_peak_memory_stats",
                "empty_cache",
            ),
            nothing,
        ),
        **dict.fromkeys(("memory_reserved", "memory_allocated", "max_memory_allocated"), none_used),
        **dict.fromkeys(("max_memory_reserved", "current_device"), none_used),
        **dict.fromkeys(("device", "device_of", "stream"), lambda *_: contextlib.nullcontext()),
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "get_device_capability": lambda *_: capability,
        "get_device_name": lambda *_: "a pretended GPU",
        "get_device_properties": lambda *_: about,
        "mem_get_info": lambda *_: (MEMORY, MEMORY),
        "synchronize": lambda *_: _device().wait("synchronize"),
        "current_stream": lambda *_: Stream(),
        "is_current_stream_capturing": lambda: _device().graph is not None,
        "Stream": Stream,
        "Event": Event,
        "CUDAGraph": CUDAGraph,
        "graph": _recording,
    }


@contextlib.contextmanager
def pretend(*, capability: tuple[int, int] = (8, 9), narrow: bool = False) -> Iterator[FakeDevice]:
    """Switch on ``cuda``, one device of ``capability`` with 24 GB; yields it, with what it has counted.

    With ``narrow`` it has no float64 and no complex numbers, as Apple's GPUs.
    """
    device = FakeDevice(narrow=narrow)
    torch._C._ensureCUDADeviceGuardSet()
    before = torch._C._only_lift_cpu_tensors()
    with contextlib.ExitStack() as stack:
        # torch.tensor(..., device="cuda") then makes its values on the CPU and copies them.
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, before)
        for name, value in _functions(capability).items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(torch, "Generator", Generator))
        stack.enter_context(mock.patch.object(Active, "device", device))
        stack.enter_context(device)
        stack.enter_context(Functions(device))
        # What was computed for a device is held for the next call, and no other device is to find it.
        stack.callback(_clear_caches)
        _clear_caches()
        yield device


def _clear_caches() -> None:
    """Forget what the functions of the library hold of earlier calls, such as tensors by their device."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "ltx2_core":
            for value in list(vars(module).values()):
                if callable(clear := getattr(value, "cache_clear", None)):
                    clear()


def on_cuda(value: Any) -> Any:
    """Every tensor of a tree on the device."""
    return tree_map(lambda t: t.to("cuda") if isinstance(t, torch.Tensor) else t, value)

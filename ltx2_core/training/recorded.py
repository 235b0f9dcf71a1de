"""Training steps as CUDA graphs: forward and backward pass are recorded once per shape, then replayed.

A step of a tiny network consists of thousands of kernels that take less time than their launches. At replay
the inputs of the step are copied into the tensors that were recorded, and the gradients appear in recorded
tensors too.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from typing_extensions import Self

_log = logging.getLogger(__name__)

WARM_UP = 3
"""Steps that run before the recording, in which libraries allocate their workspaces."""


class StepInputs(ABC):
    """Interface of the random inputs of one training step: tensors, and other values in ``layout``."""

    @property
    @abstractmethod
    def layout(self) -> object:
        """All values that are no tensors, as a hashable object; each value of it needs its own recording."""

    @abstractmethod
    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """A copy with ``change`` applied to each tensor."""

    def copied(self) -> Self:
        """A copy whose tensors are cloned."""
        return self.map(torch.clone)

    def tensors(self) -> list[Tensor]:
        """All tensors, in the order in which :meth:`map` visits them."""
        found: list[Tensor] = []

        def collect(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self.map(collect)
        return found


B = TypeVar("B", bound=StepInputs)
Compute = Callable[[], Mapping[str, Tensor]]
"""Computes the gradients; returns the loss and its parts."""


class Record(Protocol):
    """Interface of a recorded step: :meth:`replay` recomputes ``out`` (loss and its parts) and the gradients.

    A replay reads the same input tensors as at recording, so new inputs are copied into them first.
    """

    out: Mapping[str, Tensor]

    def replay(self) -> None: ...


class CudaRecord:
    """One training step, ``compute``, recorded as a CUDA graph.

    All graphs of a process share one memory pool, as they never run at once.
    """

    _pool: Any = None

    def __init__(self, compute: Compute) -> None:
        if CudaRecord._pool is None:
            CudaRecord._pool = torch.cuda.graph_pool_handle()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=CudaRecord._pool):
            self.out = compute()

    def replay(self) -> None:
        self._graph.replay()


@dataclass
class _Recording(Generic[B]):
    inputs: B
    record: Record
    gradients: list[Tensor | None]


class RecordedStep(Generic[B]):
    """A step function for :func:`ltx2_core.training.loop.train`, recorded once for each shape of its inputs.

    Each recording is a CUDA graph. On devices other than ``devices``, and after a recording has failed
    (``problem`` has the reason), steps run without recording.

    Args:
        draw: (generator, step) -> the inputs of the step.
        loss: inputs -> ``loss`` and its parts. It must not read values of tensors, and must not copy from the
            CPU after its first calls.
        record: makes a recording of a computation; replaced in tests.
        devices: types of devices on which steps are recorded.
    """

    def __init__(
        self,
        draw: Callable[[torch.Generator, int], B],
        loss: Callable[[B], Mapping[str, Tensor]],
        *,
        record: Callable[[Compute], Record] = CudaRecord,
        devices: tuple[str, ...] = ("cuda",),
    ) -> None:
        self.problem: str | None = None
        self._draw, self._loss, self._record, self._devices = draw, loss, record, devices
        self._recordings: dict[object, _Recording[B]] = {}

    def __call__(self, model: nn.Module, generator: torch.Generator, step: int) -> Mapping[str, Tensor]:
        batch = self._draw(generator, step)
        inputs = batch.tensors()
        if self.problem is not None or inputs[0].device.type not in self._devices:
            return self._loss(batch)
        parameters = [p for p in model.parameters() if p.requires_grad]
        # The identities of the parameters, since a replay writes the gradients of those that were recorded.
        key = (batch.layout, tuple((t.shape, t.dtype) for t in inputs), tuple(map(id, parameters)))
        recording = self._recordings.get(key)
        if recording is None:
            recording = self._recorded(batch, parameters)
            if recording is None:
                return self._loss(batch)
            self._recordings[key] = recording
        # A replay reads the addresses of its recording.
        for own, tensor in zip(recording.inputs.tensors(), inputs, strict=True):
            own.copy_(tensor)
        # The gradients of a replay lie in the tensors of its recording, one set for each shape of inputs.
        recording.record.replay()
        for p, gradient in zip(parameters, recording.gradients, strict=True):
            p.grad = gradient
        return recording.record.out

    def _recorded(self, batch: B, parameters: list[nn.Parameter]) -> _Recording[B] | None:
        """Record a step with inputs like ``batch``; None, with ``problem`` set, if recording fails."""
        # A recording reads fixed addresses, so it needs inputs of its own that no later batch replaces.
        own = batch.copied()

        def compute() -> Mapping[str, Tensor]:
            scalars = self._loss(own)
            scalars["loss"].backward()
            return {name: value.detach() for name, value in scalars.items()}

        try:
            self._warm_up(compute, parameters)
            record = self._record(compute)
        except Exception as error:
            # Steps without a recording would need the same memory.
            if is_out_of_memory(error):
                raise
            self.problem = f"{type(error).__name__}: {error}"
            _log.warning("training steps run without CUDA graphs: %s", self.problem)
            return None
        finally:
            # The recorded backward pass wrote to these tensors and writes to them at each replay.
            gradients = [p.grad for p in parameters]
            for p in parameters:
                p.grad = None
        return _Recording(own, record, gradients)

    def _warm_up(self, compute: Compute, parameters: list[nn.Parameter]) -> None:
        # As CUDA graphs require: the first calls allocate, which a recording must not.
        with _side_stream(parameters[0].device):
            for _ in range(WARM_UP):
                compute()
                for p in parameters:
                    p.grad = None


@contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    """Run the ``with`` block on another CUDA stream, synchronised with the current one before and after.

    For a ``device`` other than CUDA it does nothing.
    """
    if device.type != "cuda":
        yield
        return
    side = torch.cuda.Stream()
    # The side stream must see the writes of the current one, and the other way round at the end.
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        yield
    torch.cuda.current_stream().wait_stream(side)

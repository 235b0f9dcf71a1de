"""Training steps as CUDA graphs: forward and backward of one shape are recorded once and replayed.

A tiny network's step is thousands of kernels that take less time than their launches. What is drawn for a
step is copied into the tensors that were recorded; gradients appear where the recording left them.
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
"""Steps before recording, in which libraries allocate what they need."""


class Drawn(ABC):
    """What is drawn for a step."""

    @property
    @abstractmethod
    def layout(self) -> object:
        """What tells one kind of step from another, besides the shapes of its tensors."""

    @abstractmethod
    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Every tensor changed."""

    def copied(self) -> Self:
        """With tensors of its own."""
        return self.map(torch.clone)

    def tensors(self) -> list[Tensor]:
        """All of them, in the order in which they are changed."""
        found: list[Tensor] = []

        def keep(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self.map(keep)
        return found


B = TypeVar("B", bound=Drawn)
Compute = Callable[[], Mapping[str, Tensor]]
"""Loss and its parts, gradients made."""


class Record(Protocol):
    """``out`` and the gradients anew, from what is in the tensors that were recorded."""

    out: Mapping[str, Tensor]

    def replay(self) -> None: ...


class CudaRecord:
    """A CUDA graph. All of a process share their memory, as one is replayed after the other."""

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
class _Kept(Generic[B]):
    batch: B
    record: Record
    gradients: list[Tensor | None]


class RecordedStep(Generic[B]):
    """A step for :func:`ltx2_core.training.loop.train`: ``draw`` a batch, then ``loss`` of it.

    On the CPU, and once recording has failed (``problem`` says why), it is computed as ever. ``loss`` must
    not look at a value, nor bring anything from the CPU that is not there after the first steps.
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
        self._kept: dict[object, _Kept[B]] = {}

    def __call__(self, model: nn.Module, generator: torch.Generator, step: int) -> Mapping[str, Tensor]:
        batch = self._draw(generator, step)
        given = batch.tensors()
        if self.problem is not None or given[0].device.type not in self._devices:
            return self._loss(batch)
        parameters = [p for p in model.parameters() if p.requires_grad]
        key = (batch.layout, tuple((t.shape, t.dtype) for t in given), tuple(map(id, parameters)))
        kept = self._kept.get(key)
        if kept is None:
            kept = self._keep(batch, parameters)
            if kept is None:
                return self._loss(batch)
            self._kept[key] = kept
        for own, tensor in zip(kept.batch.tensors(), given, strict=True):
            own.copy_(tensor)
        kept.record.replay()
        for p, gradient in zip(parameters, kept.gradients, strict=True):
            p.grad = gradient
        return kept.record.out

    def _keep(self, batch: B, parameters: list[nn.Parameter]) -> _Kept[B] | None:
        own = batch.copied()

        def compute() -> Mapping[str, Tensor]:
            scalars = self._loss(own)
            scalars["loss"].backward()
            return {name: value.detach() for name, value in scalars.items()}

        try:
            self._warm_up(compute, parameters)
            record = self._record(compute)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self.problem = f"{type(error).__name__}: {error}"
            _log.warning("steps are not recorded: %s", self.problem)
            return None
        finally:
            gradients = [p.grad for p in parameters]
            for p in parameters:
                p.grad = None
        return _Kept(own, record, gradients)

    def _warm_up(self, compute: Compute, parameters: list[nn.Parameter]) -> None:
        with _side_stream(parameters[0].device):
            for _ in range(WARM_UP):
                compute()
                for p in parameters:
                    p.grad = None


@contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    """Another stream of a CUDA device, which goes on from this one and is waited for; nothing elsewhere."""
    if device.type != "cuda":
        yield
        return
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        yield
    torch.cuda.current_stream().wait_stream(side)

"""Data-parallel training through torch.distributed: each process computes some of the clips of a step.

With FSDP the weights of each block are split among the processes and gathered while it runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
from torch import Tensor, nn

_PATIENCE = timedelta(hours=2)
"""The others wait so long while the first process saves or makes previews."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run: the number of this one, and of all."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            torch.distributed.barrier()

    def total(self, *values: float) -> list[float]:
        """The sums of ``values`` over all processes."""
        if self.size == 1:
            return list(values)
        together = torch.tensor(values, dtype=torch.float64)
        together = together.to("cuda" if torch.distributed.get_backend() == "nccl" else "cpu")
        torch.distributed.all_reduce(together)
        return [float(value) for value in together]

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace gradients by their means over all processes; one that a process lacks counts as zero.

        Gradients of split parameters are means already.
        """
        if self.size == 1:
            return
        own = [p for p in parameters if not is_split(p)]
        if not own:
            return
        there = torch.tensor([p.grad is not None for p in own], dtype=torch.float32, device=own[0].device)
        torch.distributed.all_reduce(there)
        used = [p for p, count in zip(own, there.tolist(), strict=True) if count]
        for p in used:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        gradients = [cast("Tensor", p.grad) for p in used]
        # One transfer for many gradients: thousands of small ones would each cost its latency.
        for some in _portions(gradients):
            together = torch.cat([gradient.flatten() for gradient in some])
            torch.distributed.all_reduce(together)
            together /= self.size
            for gradient, mean in zip(some, together.split([g.numel() for g in some]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def square_norm(self, gradients: Iterable[Tensor]) -> float:
        """The sum of the squares of all gradients, of split ones over all processes."""
        whole, split = 0.0, 0.0
        for gradient in gradients:
            square = float(local(gradient).float().square().sum())
            if is_split(gradient):
                split += square
            else:
                whole += square
        return whole + self.total(split)[0]


@contextmanager
def joined_processes(device: torch.device) -> Iterator[Processes]:
    """A context with the processes that torchrun started; alone if this one was not started by it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Processes()
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield Processes(torch.distributed.get_rank(), size)
    finally:
        torch.distributed.destroy_process_group()


def split_blocks(blocks: Iterable[nn.Module], device: torch.device, processes: Processes) -> None:
    """Split the weights of each block among the processes (FSDP2); raises ValueError before torch 2.6."""
    from torch.distributed.device_mesh import init_device_mesh

    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:
        raise ValueError("sharding=fsdp needs torch 2.6 or newer: use sharding=ddp") from None

    mesh = init_device_mesh(device.type, (processes.size,))
    for block in blocks:
        fully_shard(block, mesh=mesh)


def is_split(tensor: Tensor) -> bool:
    """Whether this process holds only a share of the tensor."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """The share of this process of a tensor; the tensor itself if it is not split."""
    part: Tensor = cast("Any", tensor).to_local() if is_split(tensor) else tensor
    return part


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor, gathered from all processes, which must all call this."""
    full: Tensor = cast("Any", tensor).full_tensor() if is_split(tensor) else tensor
    return full


def split_like(tensor: Tensor, like: Tensor) -> Tensor:
    """``tensor``, which every process has whole, split as ``like`` is, on its device."""
    tensor = tensor.to(like.device)
    if not is_split(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    placed = cast("Any", like)
    split: Tensor = distribute_tensor(tensor, placed.device_mesh, placed.placements)
    return split


def _portions(tensors: Sequence[Tensor], elements: int = 1 << 26) -> Iterator[list[Tensor]]:
    """Lists of tensors of one number format with about so many elements."""
    waiting: list[Tensor] = []
    for tensor in tensors:
        if waiting and (
            waiting[0].dtype != tensor.dtype or sum(t.numel() for t in waiting) + tensor.numel() > elements
        ):
            yield waiting
            waiting = []
        waiting.append(tensor)
    if waiting:
        yield waiting

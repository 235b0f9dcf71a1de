"""Several processes for one run, as ``torchrun`` starts them: one GPU each, or the CPU with gloo."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist

from ..sampling.pass_group import PassGroup
from ..transformer.shards import Shards


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The place of this process among those that generate one clip together.

    ``count`` is their number, of which ``groups`` groups divide the guidance passes of a step among
    themselves. ``rank`` is the number of this process, from 0. ``shards`` is the group of processes that
    divide the tokens of a forward pass among themselves, with this process; None if it computes all tokens.
    ``passes`` is the group that divides the guidance passes; None if this process evaluates all. A value
    with a ``count`` above 1 and without both groups plans the run of other processes.
    """

    rank: int = 0
    count: int = 1
    groups: int = 1
    shards: Shards | None = None
    passes: PassGroup | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a number of processes that is no multiple of the number of groups."""
        if self.groups < 1 or self.count % self.groups:
            raise ValueError(
                f"{self.count} processes cannot be divided among {self.groups} passes: use a divisor of "
                f"{self.count}"
            )

    @property
    def token_parts(self) -> int:
        """Among how many processes the tokens of a forward pass are divided."""
        return self.count // self.groups


def join_processes(device: str | None = None, *, passes: int = 1) -> tuple[Processes, str | None]:
    """Join the processes that ``torchrun`` started; returns (this process's place among them, its device).

    ``passes`` is the number of groups that divide the guidance passes among themselves; the processes of one
    group divide the tokens. ``device`` is "cuda", "cpu", or None for CUDA where there is a GPU. Without
    torchrun there is one process, and ``device`` is returned unchanged. Raises ValueError for another device
    with several processes, such as cuda:1, and for a number of processes that is no multiple of ``passes``.
    """
    # torchrun sets these variables in each process.
    count = int(os.environ.get("WORLD_SIZE", "1"))
    planned = Processes(count=count, groups=passes)
    # A single process needs no process group, which PyTorch may be built without.
    if count < 2:
        return planned, device
    # A numbered device would be the same GPU in every process; LOCAL_RANK decides below.
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind not in ("cuda", "cpu"):
        raise ValueError(f"with {count} processes the device must be cuda or cpu; got {kind}")
    if kind == "cuda":
        kind = f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}"
        # NCCL communicates from the current device of the process.
        torch.cuda.set_device(kind)
    if not dist.is_initialized():
        dist.init_process_group(backend_of(kind))
    return divided(passes), kind


def backend_of(device: str) -> str:
    """The backend of torch.distributed for processes that compute on devices such as "cuda:0" or "cpu"."""
    return "gloo" if device == "cpu" else "nccl"


def divided(passes: int) -> Processes:
    """The place of this process in the process group, which is divided into ``passes`` groups.

    Every process has to call this. Raises ValueError for a number of processes that is no multiple of
    ``passes``.
    """
    planned = Processes(rank=dist.get_rank(), count=dist.get_world_size(), groups=passes)
    rank, count, each = planned.rank, planned.count, planned.token_parts
    # torch.distributed requires that every process creates every group, in the same order.
    # Neighbouring ranks divide the tokens, because they exchange keys and values in every block, and
    # neighbours are usually on one machine; the passes meet once in a step.
    tokens = [dist.new_group(list(range(start, start + each))) for start in range(0, count, each)]
    guided = [dist.new_group(list(range(place, count, each))) for place in range(each)]
    return replace(
        planned,
        shards=Shards(tokens[rank // each]) if each > 1 else None,
        passes=PassGroup(guided[rank % each]) if passes > 1 else None,
    )


def leave_processes() -> None:
    """Destroy the process group of this process, if it has one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()

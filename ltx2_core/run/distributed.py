"""Several processes for one run, as ``torchrun`` starts them: one GPU each, or the CPU with gloo."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist

from ..sampling.pass_group import PassGroup
from ..transformer.shards import Shards


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among all of them: its part of the tokens, and of the passes of guidance."""

    rank: int = 0
    shards: Shards | None = None
    passes: PassGroup | None = None


def join_processes(device: str | None = None, *, passes: int = 1) -> tuple[Processes, str | None]:
    """Meet the other processes of ``torchrun``; what is this one's, and its device.

    ``passes`` divide the passes of guidance among that many groups of processes, and each group the tokens
    among its own. Without torchrun there is nobody to meet. Raises ValueError for a device that is one of a
    kind, such as cuda:1, and for processes that cannot be divided.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if passes < 1 or count % passes:
        raise ValueError(
            f"{count} processes cannot be divided among {passes} passes: use a divisor of {count}"
        )
    if count < 2:
        return Processes(), device
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind not in ("cuda", "cpu"):
        raise ValueError(f"with {count} processes the device must be cuda or cpu; got {kind}")
    if kind == "cuda":
        kind = f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}"
        torch.cuda.set_device(kind)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if kind != "cpu" else "gloo")
    each = count // passes
    # Every process takes part in the making of every group, in the same order.
    tokens = [dist.new_group(list(range(start, start + each))) for start in range(0, count, each)]
    guided = [dist.new_group(list(range(place, count, each))) for place in range(each)]
    rank = dist.get_rank()
    made = Processes(
        rank=rank,
        shards=Shards(tokens[rank // each]) if each > 1 else None,
        passes=PassGroup(guided[rank % each]) if passes > 1 else None,
    )
    return made, kind


def leave_processes() -> None:
    """Part from the others, where there are any."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()

"""Several processes for one run, as ``torchrun`` starts them: one GPU each, or the CPU with gloo."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from .transformer.shards import Shards


def join_processes(device: str | None = None) -> tuple[Shards | None, str | None]:
    """Meet the other processes of ``torchrun``; the part of this one, and its device.

    Without torchrun, or with one process, there is nobody to meet: None, and the device as given. Raises
    ValueError for a device that is one of a kind, such as cuda:1, with several processes.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count < 2:
        return None, device
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind not in ("cuda", "cpu"):
        raise ValueError(f"with {count} processes the device must be cuda or cpu; got {kind}")
    if kind == "cuda":
        kind = f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}"
        torch.cuda.set_device(kind)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if kind != "cpu" else "gloo")
    return Shards(), kind


def leave_processes() -> None:
    """Part from the others, where there are any."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()

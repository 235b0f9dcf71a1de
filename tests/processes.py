"""Runs a function in several gloo processes on this machine, as ``torchrun`` would start them."""

from __future__ import annotations

import gc
import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist


def run_processes(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """``work(*arguments)`` in each process, with a process group; what each returned, in order of ranks.

    What is returned must be tensors, numbers and text. A process that fails fails the test.
    """
    # A fork has the models of the parent; where there is none, a fresh interpreter imports them.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = context.Queue()
    processes = [
        context.Process(target=_work, args=(rank, count, port, queue, work, arguments))
        for rank in range(count)
    ]
    # An open file of the parent decodes in threads, which a fork lacks: a child that collects it as garbage
    # would wait for them for ever.
    gc.freeze()
    try:
        for process in processes:
            process.start()
        results = dict(queue.get(timeout=1800) for _ in processes)
    finally:
        gc.unfreeze()
        for process in processes:
            process.join(timeout=300)
            process.kill()
    failures = [result for ok, result in results.values() if not ok]
    assert not failures, failures[0]
    return [_tensors(results[rank][1]) for rank in range(count)]


def _work(rank: int, count: int, port: int, queue: Any, work: Callable[..., Any], arguments: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", rank=rank, world_size=count)
        # One that fails at once must not leave while others still connect to it.
        dist.barrier()
        result: tuple[bool, Any] = (True, _arrays(work(*arguments)))
    except Exception as error:  # noqa: BLE001 the queue carries it to the test
        result = (False, f"rank {rank}: {type(error).__name__}: {error}")
    queue.put((rank, result))


def _arrays(value: Any) -> Any:
    """Tensors as arrays, which travel without shared memory."""
    if isinstance(value, torch.Tensor):
        return value.numpy().copy()
    return [_arrays(one) for one in value] if isinstance(value, (list, tuple)) else value


def _tensors(value: Any) -> Any:
    if isinstance(value, list):
        return [_tensors(one) for one in value]
    return torch.from_numpy(value) if hasattr(value, "__array_interface__") else value

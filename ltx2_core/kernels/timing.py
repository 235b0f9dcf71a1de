"""Which of two ways to compute the same takes less time on a device, by measuring both."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

_REPEATS = 5


def faster(first: Callable[[], Any], second: Callable[[], Any], device: torch.device) -> bool:
    """Whether ``first`` takes less time than ``second`` on ``device``: the medians of five calls.

    Calls alternate, so that both have the same clock of the card. One more of each comes before, which
    compiles. On a GPU the kernels are timed, not the CPU that starts them, and the CPU waits once.
    """
    for run in (first, second):
        run()
    if device.type == "cpu":
        seconds = [[_seconds(run) for run in (first, second)] for _ in range(_REPEATS)]
    else:
        seconds = _on_gpu(first, second, device)
    own, other = (median(column) for column in zip(*seconds, strict=True))
    return bool(own < other)


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _on_gpu(first: Callable[[], Any], second: Callable[[], Any], device: torch.device) -> list[list[float]]:
    module: Any = torch.cuda if device.type == "cuda" else torch.xpu
    with module.device(device):
        events = [[module.Event(enable_timing=True) for _ in range(4)] for _ in range(_REPEATS)]
        for before, between, again, after in events:
            before.record()
            first()
            between.record()
            again.record()
            second()
            after.record()
        module.synchronize()
    return [[e[0].elapsed_time(e[1]), e[2].elapsed_time(e[3])] for e in events]

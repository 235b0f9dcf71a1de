"""The host's progress bar and its stop button, as the callbacks that the library takes."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.utils

from ...ltx2_core.types import AVLatent


def check_interrupted() -> None:
    """Raise the host's interrupt if the user pressed stop."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def step_bar() -> Callable[[int, int, AVLatent], None]:
    """An OnStep that moves the node's progress bar and stops the run when the user asks for it."""
    bar: comfy.utils.ProgressBar | None = None

    def on_step(done: int, total: int, x0: AVLatent) -> None:
        nonlocal bar
        bar = bar or comfy.utils.ProgressBar(total)
        bar.update_absolute(done, total)

    return on_step


def count_bar(total: int) -> Callable[[int], None]:
    """A callback that takes how much of ``total`` (frames, blocks) has been done."""
    bar = comfy.utils.ProgressBar(total)

    def on_count(done: int) -> None:
        bar.update_absolute(done, total)

    return on_count

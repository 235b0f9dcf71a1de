"""The host's progress bar and its stop button, as the callbacks that the library takes."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.utils


def check_interrupted() -> None:
    """Raise the host's interrupt if the user pressed stop."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def count_bar(total: int) -> Callable[[int], None]:
    """A callback that moves the node's progress bar to how many of ``total`` (frames, blocks) are done."""
    bar = comfy.utils.ProgressBar(total)

    def on_count(done: int) -> None:
        bar.update_absolute(done, total)

    return on_count

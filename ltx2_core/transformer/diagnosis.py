"""Which block of the transformer first returned NaN or infinity; computed only after a result had some."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from ..storage.finite import is_finite


def first_broken_block(blocks: Iterable[nn.Module], evaluate: Callable[[], object]) -> str:
    """Run ``evaluate`` again, and name the first of ``blocks`` that returns NaN or infinity.

    ``evaluate`` is a forward pass through the blocks. The answer is such as "in block 3, video". It is
    "before the blocks" if the first block already receives such values, and "after the last block" if no
    block returns any.
    """
    found: list[str] = []

    def before(_block: nn.Module, args: tuple[Any, ...]) -> None:
        if not found and _broken(args[:2]):
            found.append("before the blocks")

    def after(number: int) -> Callable[..., None]:
        def hook(_block: nn.Module, _args: tuple[Any, ...], result: tuple[Tensor | None, ...]) -> None:
            if not found and (names := _broken(result)):
                found.append(f"in block {number}, {names}")

        return hook

    every = list(blocks)
    # Before the first block, since it may write into its input.
    handles = [every[0].register_forward_pre_hook(before)]
    handles += [block.register_forward_hook(after(number)) for number, block in enumerate(every)]
    try:
        evaluate()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "after the last block"


def _broken(streams: Iterable[Tensor | None]) -> str:
    named = zip(("video", "audio"), streams, strict=False)
    return " and ".join(name for name, x in named if x is not None and not is_finite(x))

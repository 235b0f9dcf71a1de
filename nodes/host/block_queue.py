"""Has ComfyUI fetch the weights of each transformer block before it runs, in versions that stream weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .block_arguments import Options
from .progress import check_interrupted


class BlockQueue:
    """The blocks that one forward pass runs, in ComfyUI's queue of weights to fetch.

    ``blocks`` run in this order, and the first has the number ``start`` in the network. Their weights are
    fetched to ``device``; ``options`` are the ``transformer_options`` of the call. In versions that do not
    stream weights nothing is fetched.
    """

    def __init__(self, blocks: Sequence[Any], start: int, device: torch.device, options: Options) -> None:
        self._blocks, self._start = list(blocks), start
        self._pop: Callable[[Any], None] = lambda block: None
        try:
            # Imported here, because older hosts do not have it.
            from comfy.model_prefetch import make_prefetch_queue, prefetch_queue_pop
        except ImportError:
            return
        queue = make_prefetch_queue(self._blocks, device, options)
        self._pop = lambda block: prefetch_queue_pop(queue, device, block)

    def before(self, number: int) -> None:
        """Prepare the block of this number, which runs next, and release the weights of the one before it.

        Raises what :func:`check_interrupted` raises if the user has cancelled the run.
        """
        check_interrupted()
        self._pop(self._blocks[number - self._start])

    def finish(self) -> None:
        """Release the weights of the last block, which would stay in GPU memory otherwise."""
        self._pop(None)

"""The networks of a training run: the files that the user named, or the embedded set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ..run.components import Components
from ..run.execution import Execution
from ..tiny import embedded_set
from ..types import Numerics


def open_networks(
    checkpoints: Sequence[Path],
    text_encoder: Path | None,
    *,
    device: str | None = None,
    dtype: torch.dtype | None = None,
) -> Components:
    """Open model files; without ``checkpoints`` those of the embedded set. Only headers are read.

    ``device`` None is CUDA if there is one, ``dtype`` None is bfloat16 there and float32 on a CPU. Raises
    ValueError for files that are not of LTX-2 or do not belong together.
    """
    if not checkpoints:
        tiny = embedded_set()
        checkpoints, text_encoder = (tiny.checkpoint,), text_encoder or tiny.text_encoder
    execution = Execution.on(device, dtype)
    return Components(tuple(checkpoints), text_encoder, execution=execution, numerics=Numerics.OFFICIAL)

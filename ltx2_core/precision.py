"""Which number formats devices have, and in which one networks compute there by default."""

from __future__ import annotations

import torch

NO_FLOAT64 = frozenset(("mps",))
"""Types of devices without float64: what needs it computes in float32 there."""

NO_COMPLEX = frozenset(("mps",))
"""Types of devices on which no complex numbers are computed, as not every version of PyTorch does."""

_AMPERE = (8, 0)


def usual_dtype(device: torch.device) -> torch.dtype:
    """The number format in which networks compute on ``device`` unless a run says otherwise.

    Weights are published in bfloat16, which most CPUs compute more slowly than float32. NVIDIA GPUs before
    Ampere have no bfloat16, and float16 does not hold the hidden states of Gemma: float32 there.
    """
    if device.type == "cuda" and torch.version.hip is None:
        capable = torch.cuda.get_device_capability(device) >= _AMPERE
        return torch.bfloat16 if capable else torch.float32
    return torch.float32 if device.type == "cpu" else torch.bfloat16

"""Options that make x264 write the same bytes for the same frames."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch


def repeatable_options() -> dict[str, str]:
    """Encoder options for ``libx264`` under which equal frames give an equal file on this processor.

    x264's rate control reads past a row in its AVX-512 code (PyAV 18.1), so the same frames give up to 11
    files in 30, at some widths more often than at others. Its AVX2 code does not, and is as fast at 768x512
    and 1280x704. Elsewhere the dictionary is empty: x264 takes a named instruction set without checking that
    the processor has it.
    """
    return {"x264-params": "asm=avx2"} if _has_avx512() else {}


@cache
def _has_avx512() -> bool:
    """Whether this processor has AVX-512, whatever torch or numpy were told to use of it."""
    supported = getattr(torch.cpu, "_is_avx512_supported", None)
    if supported is not None:
        return bool(supported())
    # torch before 2.5 has no such query; numpy 1.25 to 2.x holds what it found at import.
    core = getattr(np, "_core", None) or np.core
    return bool(core._multiarray_umath.__cpu_features__.get("AVX512F"))

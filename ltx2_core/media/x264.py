"""Options with which the x264 encoder writes the same bytes for the same frames."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch


def repeatable_options() -> dict[str, str]:
    """Options for ``libx264`` with which equal frames give an equal file on this processor.

    The dictionary is empty on processors without AVX-512. On processors with it x264's rate control (as in
    PyAV 18.1) reads past the end of a row, so that 30 runs on the same frames gave up to 11 different files.
    The options choose x264's code for AVX2, which does not do this and is as fast (768x512 and 1280x704 were
    measured).
    """
    # x264 uses an instruction set that is named without checking that the processor has it.
    return {"x264-params": "asm=avx2"} if _has_avx512() else {}


@cache
def _has_avx512() -> bool:
    """Whether this processor has AVX-512, even if torch or numpy are configured not to use it."""
    # The query is private in torch, so its absence must not be an error.
    supported = getattr(torch.cpu, "_is_avx512_supported", None)
    if supported is not None:
        return bool(supported())
    # torch before 2.5 has no such query; numpy 1.25 to 2.x stores the features detected at import.
    core = getattr(np, "_core", None) or np.core
    return bool(core._multiarray_umath.__cpu_features__.get("AVX512F"))

"""Registers and shared memory of the diffusion decoder's Triton kernel, compiled ahead of time for GPUs.

    python benchmarks/kernel_resources.py

No GPU is needed: Triton's compiler and the tools that come with it suffice. Each window of the released
decoder is compiled in bfloat16 and in float32. The exit code is 1 if a kernel spills registers to memory.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ltx2_core.config import video_vae_config
from ltx2_core.video_vae.diffusion import triton_kernel

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
POINTERS = {torch.bfloat16: "*bf16", torch.float32: "*fp32"}
STRIDES = (4, 5, 6)
"""Which of the numbers of an axis are strides: they are multiples of 16, which the compiler is told."""


def main() -> int:
    config = video_vae_config({"vae": {"_class_name": "CausalDiffusionVAE"}}).diffusion
    assert config is not None
    windows = sorted({config.kernel, *(stage.kernel for stage in config.stages)})
    print(
        "| window | dtype | registers by sm_"
        + " / ".join(map(str, ARCHITECTURES))
        + " | shared KB | spills |"
    )
    print("|---|---|---|---|---|", flush=True)
    spilled = False
    for window in windows:
        for dtype in POINTERS:
            rows = [resources(one, window, config.head_dim, dtype) for one in ARCHITECTURES]
            registers, shared, spills = ([row[name] for row in rows] for name in ("REG", "SHARED", "SPILLS"))
            size, kind = " x ".join(map(str, window)), str(dtype).removeprefix("torch.")
            print(
                f"| {size} | {kind} | {' / '.join(map(str, registers))} "
                f"| {' / '.join(f'{bytes_ / 1024:.0f}' for bytes_ in shared)} | {sum(spills) or 'none'} |",
                flush=True,
            )
            spilled |= any(spills)
    return int(spilled)


def resources(
    architecture: int, window: tuple[int, int, int], width: int, dtype: torch.dtype
) -> dict[str, int]:
    """Registers of a thread (REG), shared memory of a program (SHARED) and spilled bytes (SPILLS)."""
    compiled = compile_kernel(architecture, window, width, dtype)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        report = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", report)}
    return {
        "REG": found["REG"],
        "SHARED": compiled.metadata.shared,
        "SPILLS": found["STACK"] + found["LOCAL"],
    }


def compile_kernel(architecture: int, window: tuple[int, int, int], width: int, dtype: torch.dtype) -> Any:
    """The kernel for compute capability ``architecture`` / 10, heads of ``width`` values and a window."""
    constants = triton_kernel.constants(window, width, dtype)
    names = triton_kernel._kernel.arg_names
    signature: dict[str, Any] = dict.fromkeys(names, "i32")
    signature |= dict.fromkeys(("q", "k", "v", "out"), POINTERS[dtype])
    signature |= dict.fromkeys(("time", "row", "column"), ("i32",) * 7)
    signature |= dict.fromkeys(constants, "constexpr")
    aligned = [(names.index(name),) for name in ("q", "k", "v", "out", "k_batch", "v_batch")]
    aligned += [(names.index(name), at) for name in ("time", "row", "column") for at in STRIDES]
    source = ASTSource(
        fn=triton_kernel._kernel,
        signature=signature,
        constexprs=constants,
        attrs={place: [["tt.divisibility", 16]] for place in aligned},
    )
    options = {"num_warps": triton_kernel.WARPS, "num_stages": triton_kernel.STAGES}
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


if __name__ == "__main__":
    sys.exit(main())

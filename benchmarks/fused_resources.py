"""What each Triton kernel needs on each generation of GPU, by compiling it ahead of time: no GPU is needed.

    python benchmarks/fused_resources.py
    python benchmarks/fused_resources.py --arch 90

Columns: registers a thread, bytes of shared memory, bytes that do not fit the registers (spills), and loads
and stores of 128 bits among all of global memory. Exits with 1 where a kernel spills, has no wide loads, or
needs more shared memory than a program can have.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Interpreted kernels cannot be compiled; Triton reads this when it is imported.
os.environ.pop("TRITON_INTERPRET", None)

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ltx2_core.kernels.add_tables import _add_tables
from ltx2_core.kernels.gate_heads import _gate_heads
from ltx2_core.kernels.language import warps
from ltx2_core.kernels.norm_activate import WARPS, _norm_activate, positions
from ltx2_core.kernels.norm_modulate import _norm_modulate
from ltx2_core.kernels.norm_rotate import _norm_rotate
from ltx2_core.kernels.output_product import _GROUP, _output_product, tiles_for
from ltx2_core.kernels.quantize_rows import LARGEST, TINY, _quantize_rows

ARCHITECTURES = {
    80: "A100",
    86: "RTX 30",
    89: "RTX 40, L40",
    90: "H100, H200",
    100: "B200",
    120: "RTX 50",
}
"""Compute capability -> cards that have it."""
WIDTHS = {"video": (32, 128), "audio": (32, 64)}
"""Stream -> heads and head width of all released generations."""
CHANNELS = (128, 1024)
"""The narrowest and the widest features of the video decoders."""
COUNTS = frozenset(
    [
        "tokens",
        "before",
        "kept_frames",
        "length",
        "frames",
        "keep",
        "height",
        "width",
        "rows",
        "columns",
        "blocks",
        *(f"{name}{number}" for name in ("rows", "end") for number in ("_2", "_3")),
        "end",
    ]
)
"""Numbers of tokens, frames and positions, which may be odd."""
_FP8 = 89


@dataclass(frozen=True, kw_only=True)
class Build:
    """One kernel for one size: what Triton compiles."""

    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    warps: int
    stages: int = 3
    """Stages of a loop whose loads run ahead."""
    first: int = 80
    """The oldest compute capability that can compute it."""

    def source(self) -> ASTSource:
        types = {**dict.fromkeys(self.constants, "constexpr"), **self.types}
        names = self.kernel.arg_names
        # Addresses and strides are multiples of 16 at run time, too, which makes loads of 128 bits possible.
        whole = {
            (i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if _divisible(types[name], name)
        }
        return ASTSource(
            fn=self.kernel, signature={n: types[n] for n in names}, constexprs=self.constants, attrs=whole
        )


def _divisible(kind: str, name: str) -> bool:
    return kind.startswith("*") or (kind == "i32" and name not in COUNTS)


def _types(kernel: Any, constants: dict[str, Any], **others: str) -> dict[str, str]:
    """Tensors in bfloat16, strides and counts in 32 bits, epsilons in float32."""
    given = [name for name in kernel.arg_names if name not in constants]

    def kind(name: str) -> str:
        counts = name in COUNTS or name.endswith(
            ("_sample", "_token", "_head", "_row", "_step", "_frame", "_line", "_column", "_group")
        )
        return others.get(name, "fp32" if name == "eps" else "i32" if counts else "*bf16")

    return {name: kind(name) for name in given}


SHARED = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
"""KiB of shared memory that a program can have, by compute capability: CUDA C Programming Guide, table of
technical specifications."""
PRODUCTS = {
    "self-attention": (4096, 32, 4096, 6144),
    "audio to video": (2048, 32, 4096, 6144),
    "feed-forward": (16384, None, 4096, 6144),
    "audio": (2048, 32, 2048, 126),
    "audio, feed-forward": (8192, None, 2048, 126),
}
"""Last product of a branch -> widths of its input, heads (None: no gates), widths and number of tokens."""


def output_products() -> Iterator[Build]:
    for name, (inner, heads, width, tokens) in PRODUCTS.items():
        head = inner if heads is None else inner // heads
        tiles = tiles_for(tokens, width, head, torch.bfloat16)
        constants = {
            "INNER": inner,
            "HEAD": 0 if heads is None else head,
            "BIAS": True,
            "WIDENS": False,
            "ROWS": tiles.rows,
            "COLUMNS": tiles.columns,
            "DEPTH": tiles.depth,
            "GROUP": _GROUP,
        }
        yield Build(
            name=f"output_product, {name}",
            kernel=_output_product,
            types=_types(_output_product, constants),
            constants=constants,
            warps=tiles.warps,
            stages=tiles.stages,
        )


def builds() -> Iterator[Build]:
    yield from output_products()
    for stream, (heads, head) in WIDTHS.items():
        width = heads * head
        constants = {"WIDTH": width, "BLOCK": width}
        yield Build(
            name=f"add_tables, {stream}",
            kernel=_add_tables,
            types=_types(_add_tables, constants),
            constants=constants,
            warps=warps(width),
        )
        for adds, twice in ((False, False), (True, False), (True, True)):
            constants = {"WIDTH": width, "BLOCK": width, "ADDS": adds, "TWICE": twice}
            name = f"norm_modulate{', update' if adds else ''}{', two branches' if twice else ''}, {stream}"
            types = _types(_norm_modulate, constants)
            yield Build(
                name=name, kernel=_norm_modulate, types=types, constants=constants, warps=warps(width)
            )
        for interleaved, twice in ((False, False), (False, True), (True, False), (True, True)):
            sizes = {"HEADS": heads, "HEAD": head, "BLOCK_HEADS": heads, "BLOCK_PAIRS": head // 2}
            constants = {**sizes, "INTERLEAVED": interleaved, "TWICE": twice}
            kind = f"{'interleaved' if interleaved else 'split'}{', queries and keys' if twice else ''}"
            name = f"norm_rotate, {kind}, {stream}"
            types = _types(_norm_rotate, constants)
            yield Build(name=name, kernel=_norm_rotate, types=types, constants=constants, warps=warps(width))
        constants = {"HEADS": heads, "HEAD": head, "BLOCK_HEADS": heads, "BLOCK": head}
        types = _types(_gate_heads, constants)
        yield Build(
            name=f"gate_heads, {stream}",
            kernel=_gate_heads,
            types=types,
            constants=constants,
            warps=warps(width),
        )
    for channels in CHANNELS:
        for edge in (0, 1):
            # Channels next to each other, as in all features but the latent.
            constants = {
                "WIDTH": channels,
                "BLOCK": channels,
                "POSITIONS": positions(channels),
                "EDGE": edge,
                "ACTIVATE": True,
                "x_channel": 1,
                "kept_channel": 1,
            }
            yield Build(
                name=f"norm_activate, {channels} channels{', reflection' if edge else ''}",
                kernel=_norm_activate,
                types=_types(_norm_activate, constants),
                constants=constants,
                warps=WARPS,
            )
    for width in (4096, 16384):
        for dtype, largest in LARGEST.items():
            whole = not dtype.is_floating_point
            constants = {"WIDTH": width, "BLOCK": width, "LARGEST": largest, "TINY": TINY, "WHOLE": whole}
            types = _types(_quantize_rows, constants, stored="*i8" if whole else "*fp8e4nv", scale="*fp32")
            name = f"quantize_rows, {'int8' if whole else 'fp8'}, {width}"
            yield Build(
                name=name,
                kernel=_quantize_rows,
                types=types,
                constants=constants,
                warps=warps(width),
                first=80 if whole else _FP8,
            )


@dataclass(frozen=True)
class Needs:
    """Registers a thread, bytes of shared memory and of spills, and accesses of global memory."""

    registers: int
    shared: int
    spilled: int
    wide: int
    accesses: int

    @property
    def fine(self) -> bool:
        return not self.spilled and self.wide > 0

    def __str__(self) -> str:
        return f"{self.registers} / {self.shared} / {self.spilled} / {self.wide} of {self.accesses}"


def needs(build: Build, architecture: int) -> Needs:
    """Compile ``build`` for ``architecture`` (a compute capability, such as 90) and read what it needs."""
    target = GPUTarget("cuda", architecture, 32)
    compiled = triton.compile(
        build.source(), target=target, options={"num_warps": build.warps, "num_stages": build.stages}
    )
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(compiled.asm["cubin"])
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        usage = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    ptx = compiled.asm["ptx"]
    accesses = re.findall(r"^.*\b(?:(?:ld|st)\.global|cp\.async\.c)\S*", ptx, re.MULTILINE)
    wide = [line for line in accesses if re.search(r"v4\.b32|v2\.b64|v8\.b32|v4\.b64|cp\.async\.cg", line)]
    return Needs(
        found["REG"], compiled.metadata.shared, found["STACK"] + found["LOCAL"], len(wide), len(accesses)
    )


def fits(found: Needs, architecture: int) -> bool:
    return found.fine and found.shared <= SHARED[architecture] * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--arch", type=int, action="append", choices=ARCHITECTURES, help="only this one")
    chosen = parser.parse_args().arch or list(ARCHITECTURES)
    print("Registers a thread / bytes of shared memory / bytes spilled / accesses of 128 bits of all:\n")
    print("| kernel | " + " | ".join(f"sm_{arch} ({ARCHITECTURES[arch]})" for arch in chosen) + " |")
    print("|---|" + "---|" * len(chosen))
    bad = []
    for build in builds():
        row = {arch: needs(build, arch) for arch in chosen if arch >= build.first}
        bad += [f"{build.name} on sm_{arch}: {found}" for arch, found in row.items() if not fits(found, arch)]
        print(
            f"| {build.name} | " + " | ".join(str(row.get(arch, "not available")) for arch in chosen) + " |"
        )
    print("".join(f"\nspills, is too large or has narrow accesses only: {line}" for line in bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

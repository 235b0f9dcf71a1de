"""Forward passes, decoding and clips on one GPU in under nine minutes, against its own rates and others.

    python benchmarks/gpu.py --out benchmarks/results

The network has random weights and the released size of LTX-2.3. The rates of the GPU (matrix products,
attention, copies) are measured first. ``floor_ms`` is the time of a forward pass at those rates,
``ratio`` the measured time over it, and ``ratio to ...`` a time over that of another row. Results are written
after every row, and a row that fails does not stop the others. ``--tiny`` runs the same rows on a small
network, also on a CPU. With ``COMFYUI_DIR`` a checkout of ComfyUI its network is measured too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from gpu_network import Bench
from gpu_whole import host_step, int8_step, whole_clip
from published import table
from rows import Rows

from ltx2_core.transformer import Transformer
from ltx2_core.transformer.fp8 import is_fp8

CAPS_GB = (24, 16, 12, 8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="benchmarks/results", help="folder of the results")
    parser.add_argument("--name", default="gpu")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="a small network, to test the benchmark itself")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget-s", type=float, default=520)
    options = parser.parse_args()
    bench = Bench(options.device, tiny=options.tiny, repeats=options.repeats)
    if not bench.cuda and not bench.tiny:
        raise SystemExit("no GPU was found: test the benchmark itself with --tiny")
    about = {"device": torch.cuda.get_device_name() if bench.cuda else "CPU", "tiny": bench.tiny}
    run(bench, Rows(Path(options.out), options.name, options.budget_s, about))


def run(bench: Bench, rows: Rows) -> None:
    """Measure and write all rows."""
    # The small, the usual and the large size; with --tiny they are one.
    sizes = list(bench.sizes)
    small, main, large = sizes[0], sizes[len(sizes) // 2], sizes[-1]
    for name, machine in (
        ("product, bf16", bench.products),
        ("product, fp8", bench.products_fp8),
        ("attention, 16384 tokens", bench.attends),
        ("copies", bench.copies),
    ):
        rows.measure(name, machine)
    # Not under inference_mode, whose tensors cannot become parameters of diffusers' network.
    with torch.no_grad():
        model = bench.build()
    _measure_steps(bench, rows, model, sizes, main)
    for size in dict.fromkeys((main, large)):
        rows.measure(f"clip {size}, 8 steps", lambda s=size: whole_clip(bench, model, s), needs_s=40)
    rows.measure(f"step {large}, chunks of 2048", lambda: bench.chunked(model, large))
    with torch.no_grad():
        rows.measure("LoRA of rank 384 merged", lambda: bench.lora(model))
    _measure_decoders(bench, rows, main, large)
    for cap in CAPS_GB:
        for size in dict.fromkeys((small, main)):
            rows.measure(
                f"step {size}, {cap} GB, blocks streamed",
                lambda s=size, c=cap: bench.streamed(model, s, c),
                needs_s=45,
            )
    with torch.no_grad():
        model.to(bench.device)
        for size in sizes:
            rows.measure(f"step {size}, int8", lambda size=size: int8_step(bench, model, size), needs_s=30)
        rows.measure("blocks to fp8", lambda: bench.fp8(model))
    if is_fp8(model):
        _measure_fp8(bench, rows, model, sizes)
    rows.draw("ratio", f"time over the floor, {rows.about['device']}")
    rows.write()
    page = rows.path.with_suffix(".md")
    page.write_text(f"{page.read_text()}\n{table(rows.rows)}\n")


def _measure_steps(bench: Bench, rows: Rows, model: Transformer, sizes: Sequence[str], main: str) -> None:
    for size in sizes:
        rows.measure(f"step {size}, eager", lambda size=size: bench.eager(model, size))
    rows.measure(f"step {main}, image, eager", lambda: bench.eager(model, main, image=True))
    rows.measure(f"step {main}, diffusers", lambda: bench.diffusers(model, main), needs_s=20)
    rows.measure(f"step {main}, ComfyUI", lambda: host_step(bench, model, main), needs_s=20)
    for size in sizes:
        rows.measure(f"step {size}, fused", lambda size=size: bench.fused(model, size), needs_s=40)
    rows.measure(f"step {main}, image, fused", lambda: bench.fused(model, main, image=True))
    for words, together in (("one by one", False), ("together", True)):
        rows.measure(
            f"step {main}, guided, {words}", lambda t=together: bench.guided(model, main, together=t)
        )
    for size in sizes:
        rows.measure(f"step {size}, CUDA graph", lambda size=size: bench.graphs(model, size), needs_s=15)


def _measure_decoders(bench: Bench, rows: Rows, main: str, large: str) -> None:
    for generation in ("2.0", "2.3"):
        for size in dict.fromkeys((main, large)):
            rows.measure(
                f"decode {generation} {size}", lambda g=generation, s=size: bench.decode(g, s), needs_s=15
            )
    rows.measure(
        f"decode 2.0 {main}, channels last",
        lambda: bench.decode("2.0", main, channels_last=True),
        needs_s=15,
    )


def _measure_fp8(bench: Bench, rows: Rows, model: Transformer, sizes: Sequence[str]) -> None:
    for size in sizes:
        rows.measure(
            f"step {size}, fp8",
            lambda size=size: bench.step(model, size, rate=bench.gemm_fp8),
            needs_s=20,
        )
        rows.measure(
            f"step {size}, fp8, fused",
            lambda size=size: bench.fused(model, size, rate=bench.gemm_fp8),
            needs_s=40,
        )


if __name__ == "__main__":
    main()

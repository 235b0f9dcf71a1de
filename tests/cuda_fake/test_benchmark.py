"""The benchmark of a GPU measures every row, before there is a GPU to run it on."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from fake_cuda import pretend

from ltx2_core.attention import _choice
from ltx2_core.transformer.fused import Fused

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_every_row_is_measured(tmp_path, monkeypatch, device):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu
    from gpu_network import Bench
    from rows import Rows

    monkeypatch.setattr(gpu, "CAPS_GB", (24, 12))
    with pretend() if device == "cuda" else torch.no_grad():
        bench = Bench(device, tiny=True, repeats=1)
        # Interpreted, kernels would take minutes.
        bench.kernels = Fused(kernels=False)
        rows = Rows(tmp_path, "tiny", 1000.0, {"device": device})
        gpu.run(bench, rows)
    _choice.cache_clear()
    missing = {row["row"]: row["not measured"] for row in rows.rows if "not measured" in row}
    # Other networks are measured where they are installed.
    others = {"diffusers": find_spec("diffusers") is None, "ComfyUI": "COMFYUI_DIR" not in os.environ}
    for name in [n for n in missing if any(other in n and absent for other, absent in others.items())]:
        del missing[name]
    needs_a_gpu = ("fp8", "copies", "streamed", "graph") if device == "cpu" else ()
    assert {name: why for name, why in missing.items() if not any(word in name for word in needs_a_gpu)} == {}
    assert (tmp_path / "tiny.md").read_text().count("\n| ") > 15
    for program in ("SGLang, H100", "vLLM-Omni, four H200", "WanGP"):
        assert program in (tmp_path / "tiny.md").read_text()
    clip = next(row for row in rows.rows if row["row"].startswith("clip "))
    assert clip["s"] == pytest.approx(clip["steps_s"] + clip["decode_and_file_s"])
    assert clip["file_mb"] > 0
    apart = {row["row"]: row["difference"] for row in rows.rows if "difference" in row}
    assert len(apart) > 1
    assert all(value < (0.2 if "fp8" in name or "int8" in name else 0.02) for name, value in apart.items()), (
        apart
    )
    assert all(row["ms"] > 0 for row in rows.rows if "ms" in row)

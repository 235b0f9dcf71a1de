"""The device of a benchmark, and its own rates as the reference: matrix products, attention, copies."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from rows import Row

from ltx2_core.attention import attention, attention_backend
from ltx2_core.config import TransformerConfig
from ltx2_core.memory import released_size
from ltx2_core.storage.quantized import supports_fp8_matmul
from ltx2_core.transformer.fp8 import kernel_product


class Machine:
    """A device and its measured rates, for a network of released or of ``tiny`` size."""

    def __init__(self, device: str, *, tiny: bool, repeats: int) -> None:
        self.device, self.tiny, self.repeats = torch.device(device), tiny, repeats
        self.cuda = self.device.type == "cuda"
        self.dtype = torch.bfloat16 if self.cuda else torch.float32
        self.config: TransformerConfig = released_size("2.3").transformer
        if tiny:
            self.config = replace(self.config, num_layers=3, heads=4, head_dim=32, audio_head_dim=16)
        self.gemm = self.gemm_fp8 = self.heads = self.copy = float("nan")

    def seconds(self, run: Callable[[], object], repeats: int | None = None) -> float:
        """Median seconds of ``repeats`` runs after one to warm up."""
        times = []
        for _ in range((repeats or self.repeats) + 1):
            self.wait()
            start = time.perf_counter()
            run()
            self.wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times[1:])

    def launching(self, run: Callable[[], object]) -> float:
        """Seconds until ``run`` returns, without waiting for the device: what the CPU takes to launch it."""
        self.wait()
        start = time.perf_counter()
        run()
        spent = time.perf_counter() - start
        self.wait()
        return spent

    def waits(self, run: Callable[[], object]) -> int | None:
        """How often ``run`` makes the CPU wait for the device, as PyTorch counts it; None if it does not."""
        if not self.cuda:
            return None
        self.wait()
        try:
            torch.cuda.set_sync_debug_mode("warn")
        except (RuntimeError, AssertionError, AttributeError):
            # A pretended device has no such mode.
            return None
        try:
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(warning.message) for warning in found)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    @contextmanager
    def peak(self, row: Row) -> Iterator[None]:
        """Record the peak of GPU memory above that at the start as ``peak_gb``, and ``reserved_gb``."""
        if not self.cuda:
            yield
            return
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield
        row["peak_gb"] = (torch.cuda.max_memory_allocated() - before) / 1e9
        row["reserved_gb"] = torch.cuda.max_memory_reserved() / 1e9

    def products(self) -> Row:
        """Rate of bfloat16 matrix products, in TFLOP/s."""
        n = 256 if self.tiny else 8192
        a, b = (torch.randn(n, n, device=self.device, dtype=self.dtype) for _ in range(2))
        self.gemm = 2 * n**3 / self.seconds(lambda: a @ b, 10)
        return {"tflops": self.gemm / 1e12}

    def products_fp8(self) -> Row:
        """Rate of fp8 matrix products, in TFLOP/s."""
        if not supports_fp8_matmul(self.device):
            return {"not measured": "this device has no fp8 products"}
        n = 256 if self.tiny else 8192
        a, b = (torch.randn(n, n, device=self.device).to(torch.float8_e4m3fn) for _ in range(2))
        scale = torch.ones(n, 1, device=self.device)
        call = lambda: kernel_product(a, scale, b, scale, None, torch.bfloat16)  # noqa: E731
        self.gemm_fp8 = 2 * n**3 / self.seconds(call, 10)
        return {"tflops": self.gemm_fp8 / 1e12}

    def attends(self) -> Row:
        """Rate of attention, in TFLOP/s, and the backend that was chosen."""
        tokens = 64 if self.tiny else 16384
        q, k, v = (torch.randn(1, self.config.heads, tokens, self.config.head_dim, device=self.device,
                               dtype=self.dtype) for _ in range(3))  # fmt: skip
        flops = 4 * self.config.heads * tokens**2 * self.config.head_dim
        with torch.inference_mode():
            self.heads = flops / self.seconds(lambda: attention(q, k, v), 5)
        return {"tflops": self.heads / 1e12, "backend": attention_backend(self.device, self.dtype)}

    def copies(self) -> Row:
        """Rates of copies from pinned memory and within the device, in GB/s."""
        if not self.cuda:
            return {"not measured": "no GPU"}
        size = 2**20 if self.tiny else 2**30
        host = torch.empty(size, dtype=torch.uint8).pin_memory()
        on_device = torch.empty(size, dtype=torch.uint8, device=self.device)
        self.copy = size / self.seconds(lambda: on_device.copy_(host, non_blocking=True), 5)
        other = torch.empty_like(on_device)
        own = 2 * size / self.seconds(lambda: other.copy_(on_device), 10)
        return {"host_gb_s": self.copy / 1e9, "device_gb_s": own / 1e9}

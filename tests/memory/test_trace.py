"""The tracer counts what is alive and what is called, with and without memory behind the tensors."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ltx2_core.memory import Trace

DEVICES = ("cpu", "meta")
KB = 4 * 256


@pytest.mark.parametrize("device", DEVICES)
def test_the_peak_is_what_is_alive_together(device):
    with torch.inference_mode(), Trace() as trace:
        a = torch.empty(256, device=device)
        b = a + 1
        del a
        assert trace.live == KB
        c = b * 2
        del b, c
    assert (trace.peak, trace.live) == (2 * KB, 0)


@pytest.mark.parametrize("device", DEVICES)
def test_views_results_in_place_and_existing_tensors_do_not_count(device):
    existing = torch.zeros(256, device=device)
    with torch.inference_mode(), Trace() as trace:
        existing.view(16, 16).mul_(2)
        existing.chunk(2)[0].add_(1)
    assert trace.peak == 0
    assert trace.operations == {"view": 1, "mul_": 1, "chunk": 1, "add_": 1}
    with Trace([existing]) as trace:
        pass
    assert trace.live == KB


@pytest.mark.parametrize("device", DEVICES)
def test_stages_have_peaks_of_their_own(device):
    with torch.inference_mode(), Trace() as trace:
        with trace.stage("large"):
            x = torch.empty(4 * 256, device=device)
        with trace.stage("small"):
            x = x[:1].clone()
            y = torch.empty(256, device=device)
    assert trace.stages == {"large": 4 * KB, "small": 4 * KB + 4}
    assert y.numel() == 256


def test_attention_and_norm_are_one_operation_on_the_meta_device():
    q = torch.empty(2, 3, 512, 16, device="meta")
    with torch.no_grad(), Trace() as trace:
        out = F.scaled_dot_product_attention(q, q, value=q)
        normed = F.rms_norm(q, (16,))
    assert trace.operations == {"scaled_dot_product_attention": 1, "rms_norm": 1}
    assert trace.peak == 2 * q.numel() * 4
    assert out.shape == normed.shape == q.shape
    assert out.transpose(1, 2).is_contiguous()


def test_a_meta_tensor_on_the_cpu_counts_only_when_it_is_back():
    with torch.inference_mode(), Trace() as trace:
        x = torch.empty(256, device="meta")
        x = x.to(device="cpu").to("cpu")
        canvas = x.new_zeros(1024)
        assert x.is_meta
        assert canvas.is_meta
        assert trace.live == 0
        x = x.to(torch.device("meta"))
        assert trace.live == KB
        assert x.to(torch.bfloat16).dtype == torch.bfloat16
    assert trace.peak == KB + KB // 2

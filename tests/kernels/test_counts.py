"""Counted kernels are those that a GPU would start: no views, attention once, fewer where they are joined."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F


@pytest.fixture
def counts(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    import kernel_counts

    return kernel_counts


def test_operations_are_kernels_and_views_are_not(counts):
    x = torch.empty(4, 8, device="meta")
    with torch.no_grad(), counts.Counts() as found:
        (x * 2 + 1).view(8, 4).T[1:]
    assert (found.kernels, found.elementwise) == (2, 4 * x.nbytes)


def test_products_and_attention_are_one_kernel_each(counts):
    q = torch.empty(1, 2, 8, 16, device="meta")
    with torch.no_grad(), counts.Counts() as found:
        F.scaled_dot_product_attention(q, q, q)
        F.linear(q[0, 0], torch.empty(4, 16, device="meta"))
    assert (found.kernels, found.elementwise) == (2, 0)
    # Attention reads one tensor, which is passed three times.
    assert found.products == 2 * q.nbytes + 4 * (8 * 16 + 4 * 16 + 8 * 4)


def test_kernels_that_join_operations_are_fewer_and_move_less(counts):
    import cpu

    eager, fused = (cpu.kernels_of_a_step("768x512x121", fused=on) for on in (False, True))
    assert fused["kernels"] <= 2500
    assert fused["elementwise_gb"] < 0.3 * eager["elementwise_gb"]
    # Joint products read their input once. The last of a branch reads the tokens beside it, and writes them.
    assert fused["products_gb"] < 0.97 * eager["products_gb"]


def test_a_decode_by_windows_is_fewer_kernels_and_moves_less(counts):
    import cpu

    eager, fused = (cpu.kernels_of_a_decode("2.3", "768x512x121", fused=on) for on in (False, True))
    assert fused["kernels"] < 0.3 * eager["kernels"]
    assert fused["elementwise_gb"] < 0.4 * eager["elementwise_gb"]
    # Longer pieces: fewer frames are convolved for two of them.
    assert fused["products_gb"] < eager["products_gb"]

"""What is computed in float32 is not rounded to less by a setting of PyTorch."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.audio.layers import in_float32


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_off_within_and_as_it_was_afterwards(monkeypatch, tf32):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    with in_float32(torch.device("cpu")):
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 is tf32

    def fails():
        with in_float32(torch.device("cpu")):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fails()
    assert torch.backends.cudnn.allow_tf32 is tf32


def test_a_device_without_autocast_is_served():
    with in_float32(torch.device("meta")):
        assert not torch.backends.cudnn.allow_tf32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_convolution_on_a_gpu_is_float32():
    torch.manual_seed(0)
    layer, x = torch.nn.Conv1d(256, 256, 7), torch.randn(1, 256, 512)
    with torch.no_grad(), in_float32(torch.device("cuda")):
        found = layer.cuda()(x.cuda()).cpu()
        exact = layer.cpu().double()(x.double())
    assert (found - exact).abs().max() < 1e-4

"""What is computed in float32 is not rounded to less by a setting of PyTorch."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.audio.layers import in_float32

CUDNN = torch.backends.cudnn
NEWER = hasattr(getattr(CUDNN, "conv", None), "fp32_precision")
SETTING = (CUDNN.conv, "fp32_precision") if NEWER else (CUDNN, "allow_tf32")
VALUES = ["tf32", "ieee", "none"] if NEWER else [True, False]


def setting():
    return getattr(*SETTING)


@pytest.fixture(autouse=True)
def _as_before():
    before = setting()
    yield
    setattr(*SETTING, before)


@pytest.mark.parametrize("value", VALUES)
def test_tf32_is_off_within_and_as_it_was_afterwards(value):
    """Also where a program has set the precision of convolutions alone, after which ``allow_tf32`` raises."""
    setattr(*SETTING, value)
    before = setting()
    with in_float32(torch.device("cpu")):
        assert setting() in ("ieee", False)
    assert setting() == before

    def fails():
        with in_float32(torch.device("cpu")):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fails()
    assert setting() == before


@pytest.mark.skipif(not NEWER, reason="this torch has one setting for all of cuDNN")
def test_the_older_setting_is_as_it_was_afterwards():
    before = CUDNN.allow_tf32
    with in_float32(torch.device("cpu")):
        pass
    assert CUDNN.allow_tf32 is before


def test_a_device_without_autocast_is_served():
    with in_float32(torch.device("meta")):
        assert setting() in ("ieee", False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_convolution_on_a_gpu_is_float32():
    torch.manual_seed(0)
    layer, x = torch.nn.Conv1d(256, 256, 7), torch.randn(1, 256, 512)
    with torch.no_grad(), in_float32(torch.device("cuda")):
        found = layer.cuda()(x.cuda()).cpu()
        exact = layer.cpu().double()(x.double())
    assert (found - exact).abs().max() < 1e-4

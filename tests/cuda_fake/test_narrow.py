"""A device without float64 and complex numbers, as Apple's GPUs are; and the device of a run by default."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from fake_cuda import pretend
from fake_runs import pipeline_on_device, sample

from ltx2_core.audio import mel
from ltx2_core.cli.environment import _devices
from ltx2_core.run.execution import Execution


@pytest.mark.parametrize("sampler", ["euler", "res_2s"])
def test_a_clip_needs_no_float64_and_no_complex_numbers(tiny_set, monkeypatch, sampler):
    # The stand-in is called cuda, since PyTorch makes no tensor on a GPU that it was not built for.
    narrow = frozenset(("cuda",))
    monkeypatch.setattr(import_module("ltx2_core.sampling.samplers.res_2s"), "NO_FLOAT64", narrow)
    monkeypatch.setattr(mel, "NO_COMPLEX", narrow)
    with pretend(narrow=True) as device:
        pipeline = pipeline_on_device(tiny_set)
        audio = (torch.zeros(2, 24000), 24000)
        clip = sample(pipeline, device, sampler=sampler, reference_audio=audio, reference_s=0.3).clip
        assert clip.array().shape == (9, 64, 64, 3)
        assert clip.audio()[0].isfinite().all()


@pytest.mark.parametrize(
    ("kind", "capability", "dtype"),
    [
        ("cuda", (8, 6), torch.bfloat16),
        ("cuda", (7, 5), torch.float32),
        ("mps", None, torch.bfloat16),
        ("xpu", None, torch.bfloat16),
        (None, None, torch.float32),
    ],
)
def test_the_gpu_that_is_there_is_the_default(monkeypatch, kind, capability, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: kind == "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
    monkeypatch.setattr(torch.xpu, "is_available", lambda: kind == "xpu")
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 1)
    execution = Execution.on()
    assert (execution.device.type, execution.dtype) == (kind or "cpu", dtype)


def test_doctor_says_what_is_known_of_each_kind_of_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert "mps" in _devices().text
    assert "never tried" in _devices().text
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(
        torch,
        "xpu",
        SimpleNamespace(is_available=lambda: True, device_count=lambda: 1, get_device_name=lambda _: "Arc"),
    )
    assert "Arc" in _devices().text

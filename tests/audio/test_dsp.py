"""Own resampling and mel filters equal torchaudio's, and replace them where it is absent or broken."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from itertools import permutations
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ltx2_core.audio import dsp, resample
from ltx2_core.audio.mel import mel_filters
from ltx2_core.config import AudioVAEConfig
from ltx2_core.loading.checkpoint import open_checkpoint
from ltx2_core.loading.detect import Component
from ltx2_core.tiny import embedded_set
from ltx2_core.torchaudio_import import load_torchaudio, logger

ROOT = Path(__file__).resolve().parents[2]
RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000)
SHAPES = ((1,), (7,), (2, 1), (1, 2, 1001), (2, 3, 2, 333))
FILTERS = (
    (513, 64, 16000, 0.0, 8000.0),
    (257, 64, 16000, 0.0, 8000.0),
    (201, 80, 24000, 20.0, 11000.0),
    (1025, 128, 44100, 0.0, 22050.0),
    (513, 80, 48000, 1200.0, 24000.0),
    (65, 8, 8000, 0.0, 900.0),
)


@pytest.fixture
def fresh():
    """Clears the cached result of importing torchaudio, before and after the test."""
    load_torchaudio.cache_clear()
    yield
    load_torchaudio.cache_clear()


@pytest.fixture
def functional() -> ModuleType:
    return pytest.importorskip("torchaudio.functional")


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype) * 2 - 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(("rate", "target"), permutations(RATES, 2))
def test_own_resampling_equals_torchaudio(functional, rate, target, dtype):
    for shape in SHAPES:
        waveform = noise(*shape, dtype=dtype)
        own, theirs = (
            function(waveform, rate, target) for function in (dsp.own_resample, functional.resample)
        )
        assert own.dtype == dtype
        torch.testing.assert_close(own, theirs, atol=1e-6, rtol=0)


def test_own_resampling_of_long_audio_has_the_length_of_torchaudio(functional):
    waveform = noise(150_001)
    own, theirs = (function(waveform, 44100, 48000) for function in (dsp.own_resample, functional.resample))
    torch.testing.assert_close(own, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(0, 2, 50), (2, 0)])
def test_own_resampling_of_nothing_is_empty(shape):
    resampled = dsp.own_resample(torch.zeros(shape), 48000, 16000)
    assert resampled.shape == (*shape[:-1], -(-shape[-1] // 3))


def test_own_resampling_takes_any_strides_and_passes_gradients():
    waveform = noise(2, 1, 400).requires_grad_()
    resampled = dsp.own_resample(waveform.expand(-1, 2, -1), 48000, 16000)
    assert resampled.shape == (2, 2, 134)
    assert torch.equal(resampled[:, 0], resampled[:, 1])
    resampled.sum().backward()
    assert waveform.grad is not None
    assert waveform.grad.abs().sum() > 0


@pytest.mark.parametrize(("frequencies", "mel_bins", "rate", "low", "high"), FILTERS)
def test_own_mel_filters_equal_torchaudio(functional, frequencies, mel_bins, rate, low, high):
    own = dsp.own_mel_filter_bank(
        frequencies=frequencies, mel_bins=mel_bins, sample_rate=rate, f_min=low, f_max=high
    )
    theirs = functional.melscale_fbanks(frequencies, low, high, mel_bins, rate, "slaney", "slaney")
    torch.testing.assert_close(own, theirs, atol=1e-6, rtol=0)


def decoded() -> torch.Tensor:
    """Waveform of a constant latent by the embedded set, with networks that are loaded for it."""
    checkpoint = open_checkpoint(embedded_set().checkpoint)
    decoder, vocoder = (checkpoint.load(part) for part in (Component.AUDIO_DECODER, Component.VOCODER))
    with torch.inference_mode():
        mel = decoder(noise(1, 8, 6, 16).to(next(decoder.parameters()).dtype))
        return resample(vocoder(mel), 48000, 44100)


def broken(error: Exception) -> ModuleType:
    class Broken(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise error

    return Broken("torchaudio.functional")


@pytest.mark.parametrize(
    "module",
    [None, broken(OSError("undefined symbol")), broken(RuntimeError("CUDA versions")), ModuleType("empty")],
    ids=["absent", "binaries of another torch", "another CUDA", "without the functions"],
)
def test_audio_without_a_working_torchaudio_is_the_same(monkeypatch, caplog, fresh, module):
    waveform, filters = decoded(), mel_filters(AudioVAEConfig())
    load_torchaudio.cache_clear()
    monkeypatch.setitem(sys.modules, "torchaudio", None if module is None else ModuleType("torchaudio"))
    monkeypatch.setitem(sys.modules, "torchaudio.functional", module)
    caplog.set_level(logging.INFO, logger=logger.name)
    assert load_torchaudio().functional is None
    torch.testing.assert_close(decoded(), waveform, atol=1e-6, rtol=0)
    torch.testing.assert_close(mel_filters(AudioVAEConfig()), filters, atol=1e-6, rtol=0)
    (record,) = [record for record in caplog.records if record.name == logger.name]
    assert record.levelno == logging.INFO
    assert "own functions" in record.getMessage()


GEMMA = """
import torch
from ltx2_core.text.gemma import load_gemma
from ltx2_core.tiny import embedded_set
from ltx2_core.torchaudio_import import load_torchaudio
load_gemma(embedded_set().text_encoder, dtype=torch.bfloat16)
assert load_torchaudio().broken
"""


def test_a_broken_torchaudio_does_not_take_the_text_encoder_with_it(tmp_path):
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text("raise OSError('undefined symbol')")
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", GEMMA], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

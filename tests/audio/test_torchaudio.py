"""A torch and torchaudio that do not match are reported by name."""

import sys

import pytest
import torch

from ltx2_core.audio._torchaudio import torchaudio_functional


def test_a_torchaudio_that_does_not_load_is_reported_with_both_versions_and_the_fix(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchaudio.functional", None)
    with pytest.raises(RuntimeError) as caught:
        torchaudio_functional()
    message = str(caught.value)
    assert f"torch ({torch.__version__.split('+')[0]}" in message
    assert "torchaudio (" in message
    assert "pip install torch==2.11.0 torchaudio==2.11.0" in message

"""Levels of audio: peaks that are drawn, and decibels."""

from __future__ import annotations

import math

import pytest
import torch

from ltx2_core.media.levels import QUIETEST_DB, levels_of


def test_a_sine_at_half_of_full_scale_has_its_level():
    wave = 0.5 * torch.sin(torch.arange(48_000) * 0.05).repeat(2, 1)
    found = levels_of(wave, 24_000)
    assert (found.seconds, len(found.peaks)) == (2.0, 240)
    assert found.peak_db == pytest.approx(20 * math.log10(0.5), abs=0.1)
    assert found.mean_db == pytest.approx(found.peak_db - 3, abs=0.2)
    assert min(found.peaks) == pytest.approx(0.5, abs=0.01)


def test_peaks_are_where_the_audio_is_loud():
    wave = torch.zeros(2, 24_000)
    wave[1, 12_000] = -0.7
    peaks = levels_of(wave, 24_000, columns=100).peaks
    assert [index for index, one in enumerate(peaks) if one] == [50]


@pytest.mark.parametrize(
    ("wave", "peaks"),
    [
        (torch.zeros(2, 0), 0),
        (torch.zeros(2, 5), 5),
        (torch.full((1, 3), float("nan")), 3),
    ],
    ids=["nothing", "silence", "not a number"],
)
def test_silence_has_the_lowest_level(wave: torch.Tensor, peaks: int):
    found = levels_of(wave, 24_000)
    assert (len(found.peaks), found.peak_db, found.mean_db) == (peaks, QUIETEST_DB, QUIETEST_DB)
    assert not any(found.peaks)

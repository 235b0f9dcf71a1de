"""Renders the waveform of a scene of the synthetic world: knocks, a gliding or a swelling tone.

S samples, T times.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .motion import Bounce, Path, Pulse, Slide
from .scene import Scene

LOUDNESS = 0.5
NOISE_FLOOR = 5e-4
_ATTACK_S = 0.002
_DECAY_S = 0.05
_GLIDE_OCTAVES = 1.5
"""Rise of a glide from the left margin to the right one."""
_NOISE_SEED = 0x50D


def render_audio(scene: Scene, seconds: float, sample_rate: int) -> Tensor:
    """Render the audio of a scene: waveform (2, S) float32 in [-1, 1], S = round(seconds * sample_rate).

    Bounce: a knock at each contact. Slide: a tone whose pitch rises to the right, panned with the position.
    Pulse: a tone whose loudness follows the size. Still: only the noise floor that all scenes have. All
    partials lie below 8 kHz.
    """
    samples = round(seconds * sample_rate)
    times = torch.arange(samples, dtype=torch.float64) / sample_rate
    tone = _tone(scene.actor.path, scene.pitch_hz, times, seconds)
    generator = torch.Generator().manual_seed(scene.seed ^ _NOISE_SEED)
    noise = torch.randn(2, samples, generator=generator) * NOISE_FLOOR
    return tone.float() + noise


def glide_hz(path: Slide, pitch_hz: float, times: Tensor) -> Tensor:
    """Pitch (T,) in Hz of the glide of a sliding body at ``times`` (T,) in seconds.

    ``pitch_hz`` is the pitch at the centre of the frame.
    """
    return pitch_hz * 2 ** (_GLIDE_OCTAVES * (path.pose(times).across - 0.5))


def _tone(path: Path, pitch_hz: float, times: Tensor, seconds: float) -> Tensor:
    # Constant power: the loudness of both channels together does not depend on the position.
    centred = torch.full((2, 1), math.sqrt(0.5), dtype=times.dtype)
    if isinstance(path, Bounce):
        return centred * sum((_knock(times - at, pitch_hz) for at in path.contacts(seconds)), 0 * times)
    if isinstance(path, Pulse):
        return centred * LOUDNESS * (0.04 + 0.96 * path.fullness(times)) * _voice(times * pitch_hz)
    if isinstance(path, Slide):
        hertz = glide_hz(path, pitch_hz, times)
        # Integrated by the trapezoidal rule from 0, so that the phase does not depend on the sample rate.
        cycles = (torch.cumsum(hertz, 0) - (hertz + hertz[:1]) / 2) * (seconds / max(len(times), 1))
        angle = path.pose(times).across * (math.pi / 2)
        return torch.stack([angle.cos(), angle.sin()]) * LOUDNESS * _voice(cycles)
    return torch.zeros(2, len(times), dtype=times.dtype)


def _knock(since: Tensor, pitch_hz: float) -> Tensor:
    """A struck tone of ``pitch_hz``: a short attack, then an exponential decay.

    ``since`` holds seconds since the stroke; before it, where they are negative, the tone is silent.
    """
    struck = since.clamp(min=0)
    envelope = (struck / _ATTACK_S).clamp(max=1) * torch.exp(-struck / _DECAY_S)
    return 1.6 * LOUDNESS * envelope * _voice(struck * pitch_hz)


def _voice(cycles: Tensor) -> Tensor:
    """A tone of a fundamental and its faint octave; ``cycles`` counts periods of the fundamental so far."""
    phase = 2 * math.pi * cycles
    # The octave makes the voice richer than a sine, and stays below 8 kHz at the highest pitch.
    return 0.85 * torch.sin(phase) + 0.15 * torch.sin(2 * phase)

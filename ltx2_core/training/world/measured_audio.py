"""Measures the content of a waveform from its samples: kind of audio, onsets, pitch, loudness and panning.

Letters: S samples, F frames of the video, E steps of the envelope.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .palette import Sound

_STEP_S = 0.002
"""Seconds between two values of the loudness envelope."""
_SILENCE = 0.02
"""Peak RMS below which a waveform is silent."""
_RISE_S = 0.016
"""Seconds within which the envelope of a knock rises, also when a vocoder has smeared the knock."""
_RISE = 0.3
"""Least rise of an onset, as a share of the peak of the envelope."""
_APART_S = 0.1
"""Least number of seconds between two onsets."""
_PITCH_RANGE_HZ = (150.0, 4000.0)


@dataclass(frozen=True, kw_only=True)
class MeasuredAudio:
    """Kind, pitch, loudness and panning of a waveform, as a whole and at each of the F frames of its clip.

    ``sound`` is the kind: knocks, a glide, a swell or none. ``loudness``, ``pan`` and ``pitch`` (F,) are RMS,
    -1 (left) to 1 (right), and Hz.
    """

    sound: Sound
    onsets_s: tuple[float, ...]
    """Seconds at which knocks start."""
    pitch_hz: float
    """Median over knocks, or over the frames of a tone; NaN in silence."""
    glide: float
    """Octaves per second by which the pitch rises."""
    loudness: Tensor
    """(F,): root mean square of the samples around each frame."""
    pan: Tensor
    """(F,): place between the speakers at each frame, from -1, left, to 1, right."""
    pitch: Tensor
    """(F,): pitch in Hz at each frame, NaN in quiet ones."""


def measure_audio(waveform: Tensor, sample_rate: int, frames: int, fps: float) -> MeasuredAudio:
    """Measure a waveform (2, S) or (1, S) in [-1, 1] of a clip with ``frames`` frames at ``fps``.

    Raises ValueError for another shape.
    """
    if waveform.ndim != 2 or waveform.shape[0] not in (1, 2):
        raise ValueError(f"waveform is {tuple(waveform.shape)}; expected (2, S) or (1, S)")
    # A mono waveform is measured as two equal sides, in the centre.
    sides = waveform.detach().float().cpu().expand(2, -1)
    envelope = _envelope(sides.square().mean(dim=0), sample_rate)
    onsets = find_onsets(envelope)
    times = torch.arange(frames) / fps
    loudness, pan = _levels(sides, sample_rate, times, 1 / fps)
    # Pitch in quiet frames would be that of the noise floor.
    loud = loudness > max(_SILENCE / 2, 0.1 * float(loudness.max()))
    pitch = torch.tensor(
        [
            _pitch(sides, sample_rate, float(t) - 0.03, 0.06) if on else math.nan
            for t, on in zip(times, loud, strict=True)
        ]
    )
    # Four milliseconds after the onset, when the attack is over and the tone is at its loudest.
    knocks = torch.tensor([_pitch(sides, sample_rate, at + 0.004, 0.08) for at in onsets])
    sound = _sound(envelope, onsets, loudness)
    # The pitch of a knock is clear just after its start only; a tone has it in every frame.
    tone = knocks if sound == "knock" else pitch
    return MeasuredAudio(
        sound=sound,
        onsets_s=onsets,
        pitch_hz=math.nan if sound == "silence" else float(tone.nanmedian()),
        glide=_glide(times, pitch),
        loudness=loudness,
        pan=pan,
        pitch=pitch,
    )


def find_onsets(envelope: Tensor) -> tuple[float, ...]:
    """Times in seconds at which a loudness envelope (E,) rises steeply: the middle of each rise.

    The E steps of the envelope are 2 ms each.
    """
    peak = float(envelope.max())
    if peak < _SILENCE:
        return ()
    # An even number of steps, so that the middle of a rise is a step.
    half = round(_RISE_S / _STEP_S / 2) * 2
    rise = envelope[half:] - envelope[:-half]
    apart = round(_APART_S / _STEP_S)
    # The steepest of all rises within the least distance of onsets.
    top = F.max_pool1d(rise[None, None], 2 * (apart // 2) + 1, stride=1, padding=apart // 2)[0, 0]
    steep = (rise == top) & (rise > _RISE * peak)
    candidates = [int(i) + half // 2 for i in steep.nonzero()[:, 0]]
    return tuple(i * _STEP_S for i in candidates if _struck(envelope, i, 0.25 * peak))


def _struck(envelope: Tensor, i: int, least: float) -> bool:
    """Whether a knock starts at step ``i`` of the envelope (E,): quiet before, loud after.

    The mean of the 40 ms after must exceed ``least``, and 2.5 times the mean before. This excludes the
    flutter of a vocoder within a tone, which is loud on both sides.
    """
    # From 70 to 16 ms before the onset: nearer steps are part of the rise that a vocoder smears.
    before = envelope[max(0, i - 35) : max(0, i - 8)]
    after = envelope[i : i + 20].mean()
    return len(before) > 4 and float(after) > max(least, 2.5 * float(before.mean()))


def _envelope(power: Tensor, sample_rate: int) -> Tensor:
    """Loudness over time (E,) of squared samples (S,): RMS over windows of 8 ms, one each 2 ms.

    E is the number of windows; ``sample_rate`` is in Hz.
    """
    step = sample_rate * _STEP_S
    # Sums of windows as differences of one running sum, in double precision as it grows with the clip.
    total = F.pad(power.double().cumsum(0), (1, 0))
    steps = int(len(power) / step)
    centre = (torch.arange(steps) * step).round().long()
    half = round(2 * step)
    low, high = (centre - half).clamp(min=0), (centre + half).clamp(max=len(power))
    return ((total[high] - total[low]) / (high - low)).sqrt().float()


def _levels(sides: Tensor, sample_rate: int, times: Tensor, span_s: float) -> tuple[Tensor, Tensor]:
    """RMS and pan, each (F,), of stereo samples (2, S) at each of ``times`` (F,) in seconds.

    Both are measured over a window of ``span_s`` seconds. Pan goes from -1, only the left channel, to 1, only
    the right one.
    """
    total = F.pad(sides.square().double().cumsum(dim=1), (1, 0))
    low = ((times - span_s / 2) * sample_rate).long().clamp(0, sides.shape[1])
    high = ((times + span_s / 2) * sample_rate).long().clamp(0, sides.shape[1])
    left, right = (total[:, high] - total[:, low]) / (high - low).clamp(min=1)
    # Panning is constant-power: left and right are cosine and sine of an angle from 0 to a quarter turn.
    pan = torch.atan2(right.clamp(min=1e-12).sqrt(), left.clamp(min=1e-12).sqrt()) * (4 / math.pi) - 1
    return ((left + right) / 2).sqrt().float(), pan.float()


def _pitch(sides: Tensor, sample_rate: int, start_s: float, span_s: float) -> float:
    """The strongest frequency in Hz of stereo samples (2, S), in ``span_s`` seconds from ``start_s`` on.

    It is NaN if most of this span lies outside the waveform.
    """
    start, length = max(0, round(start_s * sample_rate)), round(span_s * sample_rate)
    piece = sides[:, start : start + length]
    if piece.shape[1] < length // 3:
        return math.nan
    # Padded to many times its length, so that the peak is found between the bins of the span itself.
    size = 1 << (6 * length).bit_length()
    # Powers are summed, not samples, because a decoder may shift the phase of one channel against the other.
    spectrum = torch.fft.rfft(piece * torch.hann_window(piece.shape[1]), n=size).abs().square().sum(dim=0)
    low, high = (round(hertz * size / sample_rate) for hertz in _PITCH_RANGE_HZ)
    return (low + int(spectrum[low:high].argmax())) * sample_rate / size


def _glide(times: Tensor, pitch: Tensor) -> float:
    """Slope of ``pitch`` (F,) in Hz, NaN where unknown, over ``times`` (F,): octaves per second.

    It is a median of slopes, which single outliers do not move; 0 with fewer than four known pitches.
    """
    valid = ~pitch.isnan()
    if int(valid.sum()) < 4:
        return 0.0
    time, octave = times[valid], pitch[valid].log2()
    # Pairs half of the tone apart: the slope of neighbouring frames is mostly the error of their pitches.
    apart = len(time) // 2
    return float(((octave[apart:] - octave[:-apart]) / (time[apart:] - time[:-apart])).median())


def _sound(envelope: Tensor, onsets: tuple[float, ...], loudness: Tensor) -> Sound:
    """Classify the kind of audio: knocks are short, a glide is steadily loud, a swell grows and fades.

    ``envelope`` (E,) is the loudness in steps of 2 ms, ``loudness`` (F,) that at each frame, ``onsets`` are
    the times of steep rises in seconds.
    """
    if float(envelope.max()) < _SILENCE:
        return "silence"
    # Quantiles and not extremes, which single frames of a decoder would decide.
    low, middle = torch.quantile(loudness / loudness.max(), torch.tensor([0.1, 0.5])).tolist()
    if onsets and middle < 0.35:
        return "knock"
    return "glide" if low > 0.6 else "swell"

"""Previews of latents during sampling: colours and loudness by linear maps, without a decoder.

Letters: B batch, C channels, F latent frames, H W latent rows and columns, T audio latent frames, N latent
bins, K samples, D outputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ..shapes import AUDIO_BINS, AUDIO_CHANNELS, AUDIO_DOWNSAMPLE, SPATIAL_SCALE
from ..video_vae import VideoDecoder, VideoEncoder

_CLIPS = 10
"""Clips of 16 cells each, which are more samples than a cell has channels."""
_AUDIO_CLIPS = 24
_RIDGE = {"colour": 0.01, "loudness": 0.1}


@dataclass(frozen=True, eq=False)
class LinearMap:
    """An affine map of the channels of latents, ``x @ weights + bias``: (..., C) -> (..., D).

    D is 3 for colours and 1 for loudness; weights are (C, D), bias (D,).
    """

    weights: Tensor
    bias: Tensor

    def __call__(self, cells: Tensor) -> Tensor:
        return cells @ self.weights.to(cells) + self.bias.to(cells)


@dataclass(frozen=True, eq=False)
class Previews:
    """Linear maps from the latents of one pair of autoencoders to colour (video) and loudness (audio).

    ``quiet`` and ``loud`` are the log-mel values that count as loudness 0 and 1.
    """

    colour: LinearMap
    loudness: LinearMap
    quiet: float
    loud: float

    def colours(self, video: Tensor, frame: int) -> Tensor:
        """Colours (H, W, 3) in [0, 1] of one latent frame of ``video`` (B, C, F, H, W), first sample.

        ``frame`` is the number of the latent frame, from 0.
        """
        cells = rearrange(video[0, :, frame].float(), "c h w -> h w c")
        return ((self.colour(cells) + 1) / 2).clamp(0, 1)

    def levels(self, audio: Tensor) -> Tensor:
        """Loudness (T,) in [0, 1] of each latent frame of ``audio`` (B, 8, T, 16), first sample."""
        log_mel = self.loudness(rearrange(audio[0].float(), "c t n -> t (c n)"))[:, 0]
        return ((log_mel - self.quiet) / max(self.loud - self.quiet, 1e-6)).clamp(0, 1)


@torch.inference_mode()
def fit_previews(encoder: VideoEncoder, decoder: VideoDecoder, audio: Callable[[Tensor], Tensor]) -> Previews:
    """Fit linear maps from latents to colours and loudness, by least squares on outputs of the decoders.

    The colour of a latent cell is the mean of its pixels in synthetic clips, the loudness of an audio latent
    the mean of its mel bins in decoded noise. ``audio`` decodes audio latents to log-mel, as an AudioDecoder
    does; all three must be on the CPU in float32.
    """
    # A fixed seed, so that a preview of the same latent is always the same.
    generator = torch.Generator().manual_seed(0)
    cells, colours = [], []
    for _ in range(_CLIPS):
        # Of the two latent frames the second is used: like most of a clip it stands for eight pixel frames.
        latent = encoder.encode(_clip(generator))
        frames = decoder.decode(latent)[0, :, 1:].mean(dim=1)
        blocks = rearrange(frames, "c (h y) (w x) -> (h w) c (y x)", y=SPATIAL_SCALE, x=SPATIAL_SCALE)
        cells.append(rearrange(latent[0, :, 1], "c h w -> (h w) c"))
        colours.append(blocks.mean(dim=-1))
    noise = torch.randn(_AUDIO_CLIPS, AUDIO_CHANNELS, 33, AUDIO_BINS, generator=generator)
    # The first mel frame stands for the first latent alone, since the codec is causal; all later latents have
    # four frames each.
    mel = rearrange(audio(noise)[:, :, 1:], "b c (t s) m -> (b t) (c s m)", s=AUDIO_DOWNSAMPLE)
    levels = mel.mean(dim=-1, keepdim=True)
    return Previews(
        colour=_fit(torch.cat(cells), torch.cat(colours), _RIDGE["colour"]),
        loudness=_fit(rearrange(noise[:, :, 1:], "b c t n -> (b t) (c n)"), levels, _RIDGE["loudness"]),
        # Quantiles, since a single outlier would compress the range of all others.
        quiet=float(levels.quantile(0.05)),
        loud=float(levels.quantile(0.95)),
    )


class TimeShare:
    """Limits a recurring job to a ``share``, such as 0.05, of the time since this object was made.

    ``clock`` returns seconds. The first run of the job is allowed at once.
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._share, self._clock = share, clock
        self._start, self._spent = clock(), 0.0

    @property
    def due(self) -> bool:
        """Whether what this object limits, such as previews, has stayed within its share of time so far."""
        # The clock starts with the object, so that the first run is due at once.
        return self._spent <= self._share * (self._clock() - self._start)

    @contextmanager
    def spend(self) -> Iterator[None]:
        """Context around one run of the job whose share of the time is limited; counts the run's seconds."""
        start = self._clock()
        try:
            yield
        finally:
            self._spent += self._clock() - start


def false_colours(video: Tensor, frame: int) -> Tensor:
    """As :meth:`Previews.colours`, without linear maps of an autoencoder: shapes, not true colours.

    ``video`` is (B, C, F, H, W), the result (H, W, 3) in [0, 1]. The three strongest principal components of
    the channels become red, green and blue.
    """
    cells = rearrange(video[0, :, frame].float(), "c h w -> c (h w)")
    cells = cells - cells.mean(dim=1, keepdim=True)
    directions = torch.linalg.eigh(cells @ cells.T).eigenvectors[:, -3:].flip(1)
    # An eigenvector has no sign of its own; without this one the colours would flip from step to step.
    directions = directions * directions.sum(dim=0, keepdim=True).sign()
    rgb = directions.T @ cells
    rgb = rgb / rgb.abs().amax(dim=1, keepdim=True).clamp_min(1e-6)
    pixels: Tensor = rearrange((1 + rgb) / 2, "c (h w) -> h w c", h=video.shape[3])
    return pixels


def relative_levels(audio: Tensor) -> Tensor:
    """As :meth:`Previews.levels`, without a linear map of an autoencoder: (B, 8, T, 16) -> (T,).

    The level of an audio latent is its distance from the mean over time; the largest level is 1.
    """
    moments = rearrange(audio[0].float(), "c t n -> t (c n)")
    distance: Tensor = (moments - moments.mean(dim=0)).norm(dim=1)
    return distance / distance.amax().clamp_min(1e-6)


def _clip(generator: torch.Generator) -> Tensor:
    """Smooth random colours that move a little, drawn by ``generator``: (1, 3, 9, 128, 128) in [-1, 1]."""
    # Wider than [-1, 1] before it is clamped, so that saturated colours are well represented.
    coarse = 2.4 * torch.rand(1, 3, 2, 6, 6, generator=generator) - 1.2
    coarse[:, :, 1] = 0.7 * coarse[:, :, 0] + 0.3 * coarse[:, :, 1]
    return F.interpolate(coarse, size=(9, 128, 128), mode="trilinear", align_corners=True).clamp(-1, 1)


def _fit(x: Tensor, y: Tensor, ridge: float) -> LinearMap:
    """Ridge regression of ``y`` (K, D) on ``x`` (K, C), K samples; ``ridge`` is the penalty per sample."""
    # Normal equations square the condition number, which float32 does not survive with 128 correlated
    # channels.
    x, y = x.double(), y.double()
    mean, target = x.mean(dim=0), y.mean(dim=0)
    a = x - mean
    # Only the slope is penalised, not the mean, so that a ridge cannot make previews darker.
    gram = a.T @ a + ridge * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(gram, a.T @ (y - target))
    return LinearMap(weights.float(), (target - mean @ weights).float())

"""Vocoders: log-mel spectrogram to waveform, plain (2.0) or with bandwidth extension (2.3 and later).

Letters: B batch, T mel frames, M mel bins, S samples.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import BandwidthExtensionConfig, VocoderConfig
from .bandwidth import LogMel, sinc_upsample
from .generator import Generator
from .layers import Layers, in_float32


def build_vocoder(
    config: VocoderConfig,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    operations: Any = nn,
) -> Vocoder:
    """Build the vocoder of ``config``: log-mel (B, 2, T, M) -> waveform (B, 2, S) in [-1, 1].

    T mel frames, M mel bins, S samples. Parameter names are those of a checkpoint without the prefix
    ``vocoder.``. Layers are classes of ``operations``, a namespace like ``torch.nn``; both kinds of vocoder
    compute in float32. Raises ValueError for a configuration whose rates do not fit each other.
    """
    layers = Layers(operations, dtype, device)
    if config.bwe is None:
        return PlainVocoder(config, layers)
    return BandwidthVocoder(config, config.bwe, layers)


class PlainVocoder(Generator):
    """The 2.0 vocoder: a single generator that produces waveforms at ``sample_rate``."""

    def __init__(self, config: VocoderConfig, layers: Layers) -> None:
        super().__init__(config.generator, layers)
        self.sample_rate = config.sample_rate

    def forward(self, mel: Tensor) -> Tensor:
        """mel (B, 2, T, M) -> waveform (B, 2, T * samples_per_frame) float32 in [-1, 1].

        T mel frames, M mel bins.
        """
        with in_float32(mel.device):
            return super().forward(mel.float())


class BandwidthVocoder(nn.Module):
    """The 2.3 vocoder, with bandwidth extension from 16 kHz to 48 kHz.

    A first generator makes the waveform at 16 kHz. A second generator predicts the band above 8 kHz from this
    waveform; the band is added to the waveform, interpolated to 48 kHz.
    """

    def __init__(self, config: VocoderConfig, bwe: BandwidthExtensionConfig, layers: Layers) -> None:
        super().__init__()
        if bwe.output_sample_rate % bwe.input_sample_rate:
            raise ValueError(
                f"vocoder.bwe: output_sampling_rate {bwe.output_sample_rate} must be a multiple of "
                f"input_sampling_rate {bwe.input_sample_rate}"
            )
        self.sample_rate = config.sample_rate
        self.ratio = bwe.output_sample_rate // bwe.input_sample_rate
        self.hop_length = bwe.hop_length
        self.vocoder = Generator(config.generator, layers)
        self.bwe_generator = Generator(bwe.generator, layers)
        self.mel_stft = LogMel(bwe, layers)
        if self.bwe_generator.samples_per_frame != bwe.hop_length * self.ratio:
            raise ValueError(
                f"vocoder.bwe: upsample_rates multiply to {self.bwe_generator.samples_per_frame}; hop_length "
                f"{bwe.hop_length} at {self.ratio} times the rate needs {bwe.hop_length * self.ratio}"
            )

    def forward(self, mel: Tensor) -> Tensor:
        """mel (B, 2, T, M) -> waveform (B, 2, S) float32 in [-1, 1].

        T mel frames, M mel bins; S is ``ratio`` times the T * samples_per_frame samples of the first
        generator.
        """
        with in_float32(mel.device):
            low_rate: Tensor = self.vocoder(mel.float())
            samples = low_rate.shape[-1]
            # The log-mel needs whole hops; the padding is cut off from the result again.
            whole_hops = F.pad(low_rate, (0, -samples % self.hop_length))
            # The second generator reads a log-mel of this waveform, at half the hop of the one that came from
            # the decoder.
            added_band = self.bwe_generator(self.mel_stft(whole_hops))
            # The interpolated waveform may leave the range once the predicted band is added.
            waveform: Tensor = (added_band + sinc_upsample(whole_hops, self.ratio)).clamp(-1, 1)
            return waveform[..., : samples * self.ratio]


Vocoder: TypeAlias = PlainVocoder | BandwidthVocoder

"""One frozen configuration per network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RopeType = Literal["split", "interleaved"]
FrequenciesPrecision = Literal["float64", "float32"]
PaddingMode = Literal["zeros", "reflect"]


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary embedding shared by the transformer and the text connectors."""

    theta: float = 10000.0
    rope_type: RopeType = "split"
    precision: FrequenciesPrecision = "float64"


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The audio-video diffusion transformer; the defaults are LTX-2.0 19B."""

    num_layers: int = 48
    heads: int = 32
    head_dim: int = 128
    audio_head_dim: int = 64
    in_channels: int = 128
    out_channels: int = 128
    audio_in_channels: int = 128
    audio_out_channels: int = 128
    caption_channels: int = 3840
    caption_projection: bool = True
    """2.0 projects the text inside the transformer; later generations before the connectors."""
    gated_attention: bool = False
    cross_attention_adaln: bool = False
    prompt_adaln: bool = True
    """Whether the prompt modulation depends on the timestep; only read with ``cross_attention_adaln``."""
    ff_bias: bool = True
    audio_ff_bias: bool = True
    keyframe_embedding: bool = False
    rope: RopeConfig = RopeConfig()
    max_pos: tuple[float, float, float] = (20, 2048, 2048)
    """Seconds, pixel rows, pixel columns."""
    audio_max_pos: float = 20
    timestep_scale: float = 1000.0
    cross_timestep_scale: float = 1000.0
    norm_eps: float = 1e-6
    qk_norm_eps: float = 1e-6
    """ComfyUI uses 1e-5 whatever the checkpoint says (spec: transformer 12)."""

    @property
    def dim(self) -> int:
        return self.heads * self.head_dim

    @property
    def audio_dim(self) -> int:
        return self.heads * self.audio_head_dim

    @property
    def modulation_rows(self) -> int:
        return 9 if self.cross_attention_adaln else 6


@dataclass(frozen=True, kw_only=True)
class ConnectorConfig:
    """One text connector: a small 1-D transformer with learnable registers."""

    heads: int
    head_dim: int
    num_layers: int
    num_registers: int = 128
    gated_attention: bool = False
    ff_bias: bool = True
    max_pos: float = 4096
    rope: RopeConfig = RopeConfig()
    norm_eps: float = 1e-6
    qk_norm_eps: float = 1e-6

    @property
    def dim(self) -> int:
        return self.heads * self.head_dim


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """From text hidden states to contexts: normalisation, projection and the two connectors."""

    per_token_norm: bool
    """True: RMS per token, a projection per modality (2.3). False: range per clip, one projection (2.0)."""
    video: ConnectorConfig
    audio: ConnectorConfig


@dataclass(frozen=True, kw_only=True)
class VideoBlock:
    """One entry of an encoder or decoder block list."""

    kind: Literal["res_x", "compress_space", "compress_time", "compress_all"]
    num_layers: int = 1
    multiplier: int = 1
    residual: bool = False

    @property
    def strides(self) -> tuple[int, int, int]:
        """(time, height, width)."""
        return {
            "res_x": (1, 1, 1),
            "compress_space": (1, 2, 2),
            "compress_time": (2, 1, 1),
            "compress_all": (2, 2, 2),
        }[self.kind]


@dataclass(frozen=True, kw_only=True)
class VideoVAEConfig:
    """Video autoencoder. Block lists are in execution order, input side first, for both halves."""

    encoder_blocks: tuple[VideoBlock, ...]
    decoder_blocks: tuple[VideoBlock, ...]
    latent_channels: int = 128
    encoder_base_channels: int = 128
    decoder_base_channels: int = 128
    channels: int = 3
    patch_size: int = 4
    encoder_padding: PaddingMode = "zeros"
    decoder_padding: PaddingMode = "reflect"
    causal_decoder: bool = False


@dataclass(frozen=True, kw_only=True)
class AudioVAEConfig:
    """Mel front end and audio autoencoder."""

    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: int = 2
    z_channels: int = 8
    in_channels: int = 2
    out_channels: int = 2
    mel_bins: int = 64
    sample_rate: int = 16000
    n_fft: int = 1024
    win_length: int = 1024
    hop_length: int = 160
    mel_fmin: float = 0.0
    mel_fmax: float = 8000.0

    @property
    def downsample(self) -> int:
        """Compression of time and of mel bins alike: 4."""
        return int(2 ** (len(self.channel_mult) - 1))

    @property
    def latent_bins(self) -> int:
        return self.mel_bins // self.downsample


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """One mel-to-waveform generator (HiFi-GAN style, or anti-aliased AMP blocks)."""

    initial_channels: int
    upsample_rates: tuple[int, ...]
    upsample_kernels: tuple[int, ...]
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    amp: bool = False
    """Anti-aliased AMP1 blocks with SnakeBeta (2.3) instead of leaky-ReLU residual blocks (2.0)."""
    final_bias: bool = True
    final_activation: Literal["tanh", "clamp", "none"] = "tanh"
    mel_bins: int = 64
    channels: int = 2


@dataclass(frozen=True, kw_only=True)
class BandwidthExtensionConfig:
    """Second stage of the 2.3 vocoder: from 16 kHz to 48 kHz."""

    generator: GeneratorConfig
    input_sample_rate: int = 16000
    output_sample_rate: int = 48000
    n_fft: int = 512
    win_length: int = 512
    hop_length: int = 80
    mel_bins: int = 64


@dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """Vocoder of one generation; ``bwe`` is None for 2.0."""

    generator: GeneratorConfig
    sample_rate: int
    """Rate of the waveform that comes out, in Hz."""
    bwe: BandwidthExtensionConfig | None = None


@dataclass(frozen=True, kw_only=True)
class UpsamplerConfig:
    """Latent upsampler: spatial (scale 0.75, 1.5, 2 or 4) and/or temporal x2."""

    in_channels: int = 128
    mid_channels: int = 1024
    blocks_per_stage: int = 4
    spatial: bool = True
    temporal: bool = False
    spatial_scale: float = 2.0
    rational: bool = False
    """Whether the spatial step is the rational layout (`upsampler.conv`); never for temporal upsamplers."""

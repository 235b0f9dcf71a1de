"""The settings of each network, as one frozen dataclass per network."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

RopeType = Literal["split", "interleaved"]
FrequenciesPrecision = Literal["float64", "float32"]
PaddingMode = Literal["zeros", "reflect"]


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Settings of the rotary embedding, used by the transformer and the text connectors.

    ``theta`` is the ratio of the highest frequency to the lowest, ``rope_type`` how channels are paired
    (halves of a head, or neighbours), ``precision`` that in which frequencies are computed.
    """

    theta: float = 10000.0
    rope_type: RopeType = "split"
    precision: FrequenciesPrecision = "float64"


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Settings of the diffusion transformer. The defaults are those of LTX-2.0 19B.

    Widths of attention are ``heads`` times ``head_dim``; fields with ``audio_`` are those of the audio
    stream. ``gated_attention`` gives each head a gate, ``cross_attention_adaln`` modulates text attention by
    the noise level, ``keyframe_embedding`` adds a learned vector to tokens that stand for one frame and not
    for eight (2.5). ``timestep_scale`` multiplies sigma, ``cross_timestep_scale`` the sigma that gates
    attention between the streams. ``audio_max_pos`` is in seconds.
    """

    num_layers: int = 48
    heads: int = 32
    head_dim: int = 128
    audio_head_dim: int = 64
    """0 in a network without an audio stream (LTX-Video)."""
    in_channels: int = 128
    out_channels: int = 128
    audio_in_channels: int = 128
    audio_out_channels: int = 128
    caption_channels: int = 3840
    caption_projection: bool = True
    """Whether the transformer projects the text itself (2.0); later generations do before the connectors."""
    gated_attention: bool = False
    cross_attention_adaln: bool = False
    prompt_adaln: bool = True
    """Whether the prompt modulation depends on the timestep; only read with ``cross_attention_adaln``."""
    ff_bias: bool = True
    audio_ff_bias: bool = True
    keyframe_embedding: bool = False
    rope: RopeConfig = RopeConfig()
    max_pos: tuple[float, float, float] = (20, 2048, 2048)
    """Range of video positions that rotary frequencies are scaled to: seconds, pixel rows, pixel columns."""
    middle_positions: bool = True
    """Whether a token is rotated by the middle of its interval in time and space, or by its start."""
    causal_time: bool = True
    """Whether the first latent frame covers one pixel frame in the positions, as it does in the video."""
    audio_max_pos: float = 20
    norm_before_text: bool = True
    """Whether tokens are normalised before they attend to the text; in LTX-Video they are not."""
    timestep_scale: float = 1000.0
    cross_timestep_scale: float = 1000.0
    norm_eps: float = 1e-6
    qk_norm_eps: float = 1e-6
    """Epsilon of the query and key norms; ComfyUI uses 1e-5 whatever the checkpoint says."""
    audio_reads_updated_video: bool = False
    """Whether audio attends to the video after the video's update by audio, as in ComfyUI from 0.31 on.

    Models are trained without it."""

    @property
    def dim(self) -> int:
        return self.heads * self.head_dim

    @property
    def audio_dim(self) -> int:
        return self.heads * self.audio_head_dim

    @property
    def has_audio(self) -> bool:
        """Whether there is an audio stream, and with it attention between audio and video."""
        return self.audio_head_dim > 0

    @property
    def modulation_rows(self) -> int:
        """Number of modulation vectors per block and stream: shift, scale and gate for each branch.

        The branches are self-attention, feed-forward and, with ``cross_attention_adaln``, text attention.
        """
        return 9 if self.cross_attention_adaln else 6


@dataclass(frozen=True, kw_only=True)
class DurationHeadConfig:
    """Settings of the network that predicts how long a clip should be from its encoded prompt.

    ``video_dim`` and ``audio_dim`` are the widths of the text for video and for audio, ``hidden`` that of the
    attention with ``queries`` learned queries and ``heads`` heads, ``mlp`` that of the last hidden layer.
    """

    video_dim: int
    audio_dim: int
    hidden: int = 256
    queries: int = 1
    heads: int = 4
    mlp: int = 256

    def __post_init__(self) -> None:
        if self.heads < 1 or self.hidden % self.heads:
            raise ValueError(f"num_pooler_heads={self.heads} does not divide pooler_hidden_dim={self.hidden}")


@dataclass(frozen=True, kw_only=True)
class ConnectorConfig:
    """Settings of one text connector: a small 1-D transformer with learnable registers.

    Registers replace the padding of a prompt. ``max_pos`` is the number of positions to which rotary
    frequencies are scaled, ``gated_attention`` gives each head a gate.
    """

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
    """Settings of the networks between text encoder and transformer: text projection and text connectors.

    ``per_token_norm`` says how hidden states are normalised: by the RMS of each token (since 2.3), or by the
    value range of the whole prompt (2.0). ``video`` and ``audio`` are the connectors of the two streams.
    """

    per_token_norm: bool
    """How hidden states are normalised and projected to features.

    True (since 2.3): by the RMS of each token, with one projection for each modality. False (2.0): by the
    value range of the whole prompt, with one projection for both.
    """
    video: ConnectorConfig
    audio: ConnectorConfig


@dataclass(frozen=True, kw_only=True)
class VideoBlock:
    """One block of the video encoder or decoder.

    ``kind`` "res_x" stands for ``num_layers`` residual blocks, "res_x_y" for one that changes the number of
    channels. The other kinds are a resampling by 2, down in the encoder and up in the decoder: of height and
    width ("compress_space"), of time ("compress_time") or of all three ("compress_all"). ``multiplier`` is
    the factor between the numbers of channels before and after it, ``residual`` says whether an upsampling
    adds its input to the result. A ``strided`` downsampling is a convolution alone, which leaves out every
    second position. ``inject_noise`` says whether residual blocks add noise to the result of each of their
    convolutions.
    """

    kind: Literal["res_x", "res_x_y", "compress_space", "compress_time", "compress_all"]
    num_layers: int = 1
    multiplier: int = 1
    residual: bool = False
    strided: bool = False
    inject_noise: bool = False

    @property
    def is_residual(self) -> bool:
        """Whether the block consists of residual blocks, and so does not change the resolution."""
        return self.kind in ("res_x", "res_x_y")

    @property
    def strides(self) -> tuple[int, int, int]:
        """Factors by which the block changes the resolution: (time, height, width), 1 or 2 each.

        All are 1 for residual blocks.
        """
        return {
            "res_x": (1, 1, 1),
            "res_x_y": (1, 1, 1),
            "compress_space": (1, 2, 2),
            "compress_time": (2, 1, 1),
            "compress_all": (2, 2, 2),
        }[self.kind]


@dataclass(frozen=True, kw_only=True)
class DiffusionStage:
    """One of the steps by which the diffusion video decoder enlarges the latent before the denoising.

    ``depth`` attention blocks, with ``channels`` values for each position, attend to windows of ``kernel``
    positions (time, height, width). Then time, height and width grow by the factors ``strides``, and the
    number of channels is divided by ``reduction``.
    """

    channels: int
    depth: int
    kernel: tuple[int, int, int]
    strides: tuple[int, int, int]
    reduction: int


@dataclass(frozen=True, kw_only=True)
class DiffusionDecoderConfig:
    """Settings of the diffusion video decoder of LTX-2.5, which reads the latents of 2.3 and 2.5.

    ``stages`` compute features from the latent. The diffusion stage, conditioned on them, turns noise into
    frames in ``steps`` denoising steps. It has ``depth`` blocks with ``channels`` values for each patch of a
    frame, and attention windows of ``kernel`` patches (time, height, width).
    """

    stages: tuple[DiffusionStage, ...]
    channels: int = 256
    depth: int = 8
    kernel: tuple[int, int, int] = (11, 11, 11)
    head_dim: int = 64
    time_dim: int = 384
    """Width of the embedding of the diffusion time."""
    time_scale: float = 1000.0
    """Factor of the diffusion time, 0 to 1, before it is embedded."""
    steps: int = 1
    prediction: Literal["x0", "v"] = "x0"
    """Whether the network predicts the frames themselves or the velocity from them to the noise."""

    @property
    def strides(self) -> tuple[int, int, int]:
        """Factors (time, height, width) from latent positions to the patches of frames that are denoised.

        The size of a patch in pixels is not included.
        """
        time, height, width = zip(*(stage.strides for stage in self.stages), strict=True)
        return prod(time), prod(height), prod(width)


@dataclass(frozen=True, kw_only=True)
class VideoVAEConfig:
    """Settings of the video autoencoder.

    Both block lists are in the order in which the blocks run, from the input to the output. With
    ``diffusion`` the decoder is the diffusion decoder of LTX-2.5, and ``decoder_blocks`` is empty. With
    ``timestep`` the decoder removes noise that is added to the latent before (LTX-Video from 0.9.1 on): it is
    told a noise level of ``timestep``, and ``noise_scale`` of the latent are replaced by noise.
    """

    encoder_blocks: tuple[VideoBlock, ...]
    decoder_blocks: tuple[VideoBlock, ...]
    diffusion: DiffusionDecoderConfig | None = None
    latent_channels: int = 128
    encoder_base_channels: int = 128
    decoder_base_channels: int = 128
    channels: int = 3
    patch_size: int = 4
    encoder_padding: PaddingMode = "zeros"
    decoder_padding: PaddingMode = "reflect"
    causal_decoder: bool = False
    timestep: float | None = None
    noise_scale: float = 0.0

    @property
    def uses_noise(self) -> bool:
        """Whether decoding draws noise, so that it has a seed."""
        noisy = any(block.inject_noise for block in self.decoder_blocks)
        return self.diffusion is not None or self.timestep is not None or noisy


@dataclass(frozen=True, kw_only=True)
class AudioVAEConfig:
    """Settings of the audio autoencoder and its mel front end.

    ``channels`` times ``channel_mult`` are the widths at each resolution. ``n_fft``, window and hop lengths
    are in samples, frequencies in Hz.
    """

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
        """Factor by which the encoder compresses time, and also mel bins: 4 in released models."""
        return int(2 ** (len(self.channel_mult) - 1))

    @property
    def latent_bins(self) -> int:
        return self.mel_bins // self.downsample


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Settings of one mel-to-waveform generator (HiFi-GAN style, or anti-aliased AMP blocks).

    The generator is a sequence of stages; each upsamples in time, halves the number of channels and applies
    residual blocks. ``initial_channels`` is the number of channels before the first stage.
    ``upsample_rates`` and ``upsample_kernels`` have an entry per stage, ``resblock_kernels`` and
    ``resblock_dilations`` one per residual block of a stage. ``channels`` are those of the audio.
    """

    initial_channels: int
    upsample_rates: tuple[int, ...]
    upsample_kernels: tuple[int, ...]
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    amp: bool = False
    """Anti-aliased AMP1 blocks with SnakeBeta (since 2.3) instead of leaky-ReLU residual blocks (2.0)."""
    final_bias: bool = True
    final_activation: Literal["tanh", "clamp", "none"] = "tanh"
    mel_bins: int = 64
    channels: int = 2


@dataclass(frozen=True, kw_only=True)
class BandwidthExtensionConfig:
    """Settings of the second stage of the vocoder since 2.3, which extends its 16 kHz waveform to 48 kHz.

    Rates are in Hz, ``n_fft``, window and hop lengths in samples of the 16 kHz waveform.
    """

    generator: GeneratorConfig
    input_sample_rate: int = 16000
    output_sample_rate: int = 48000
    n_fft: int = 512
    win_length: int = 512
    hop_length: int = 80
    mel_bins: int = 64


@dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """Settings of the vocoder of one generation, whose output has ``sample_rate`` Hz.

    ``generator`` is its first stage, ``bwe`` the second, which extends the bandwidth; None for 2.0.
    """

    generator: GeneratorConfig
    sample_rate: int
    """Sample rate of the output waveform in Hz."""
    bwe: BandwidthExtensionConfig | None = None


@dataclass(frozen=True, kw_only=True)
class UpsamplerConfig:
    """Settings of a latent upsampler: spatial (scale 0.75, 1.5, 2 or 4), temporal x2, or both.

    ``in_channels`` are those of the latent, ``mid_channels`` the width of the network, ``blocks_per_stage``
    its residual blocks before and again after the upsampling. ``rational`` says that height and width are
    scaled by a ratio p / q: a pixel shuffle by p, then a filter that takes every q-th position.
    """

    in_channels: int = 128
    mid_channels: int = 1024
    blocks_per_stage: int = 4
    spatial: bool = True
    temporal: bool = False
    spatial_scale: float = 2.0
    rational: bool = False
    """Whether the spatial step is a rational resampler (``upsampler.conv``); never with ``temporal``."""

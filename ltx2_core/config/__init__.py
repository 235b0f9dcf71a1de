"""The settings of each network as a frozen dataclass, and the only reader of checkpoint JSON."""

from .autoencoders import audio_vae_config, video_vae_config, vocoder_config
from .networks import (
    AudioVAEConfig,
    BandwidthExtensionConfig,
    ConnectorConfig,
    DiffusionDecoderConfig,
    DiffusionStage,
    FrequenciesPrecision,
    GeneratorConfig,
    PaddingMode,
    RopeConfig,
    RopeType,
    TextConfig,
    TransformerConfig,
    UpsamplerConfig,
    VideoBlock,
    VideoVAEConfig,
    VocoderConfig,
)
from .reader import text_config, transformer_config, upsampler_config

__all__ = [
    "AudioVAEConfig",
    "BandwidthExtensionConfig",
    "ConnectorConfig",
    "DiffusionDecoderConfig",
    "DiffusionStage",
    "FrequenciesPrecision",
    "GeneratorConfig",
    "PaddingMode",
    "RopeConfig",
    "RopeType",
    "TextConfig",
    "TransformerConfig",
    "UpsamplerConfig",
    "VideoBlock",
    "VideoVAEConfig",
    "VocoderConfig",
    "audio_vae_config",
    "text_config",
    "transformer_config",
    "upsampler_config",
    "video_vae_config",
    "vocoder_config",
]

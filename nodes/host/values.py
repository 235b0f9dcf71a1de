"""Names for ComfyUI's values in type annotations.

Models are instances of ComfyUI's classes; as types are checked without an installed ComfyUI, their names
stand for Any.
"""

from __future__ import annotations

from typing import Any, TypeAlias, TypedDict

from torch import Tensor

Model: TypeAlias = Any
"""MODEL: a ``comfy.model_patcher.ModelPatcher`` around a ``comfy.model_base.BaseModel``."""

Clip: TypeAlias = Any
"""CLIP: a ``comfy.sd.CLIP``."""

Vae: TypeAlias = Any
"""VAE of video or audio: a ``comfy.sd.VAE``."""

UpscaleModel: TypeAlias = Any
"""LATENT_UPSCALE_MODEL: a ModelPatcher from ComfyUI 0.29 on, a network before."""

Latent: TypeAlias = dict[str, Any]
"""LATENT: ``samples``, perhaps a ``noise_mask`` (1 where it is generated), and keys of any node."""

Conditioning: TypeAlias = list[Any]
"""CONDITIONING: pairs of a text embedding and a dict of options."""

Options: TypeAlias = dict[str, Any]
"""A dict of the host to which any node may add keys, such as the options of a MODEL."""


class ReferenceAudio(TypedDict, total=False):
    """ComfyUI's conditioning value ``ref_audio``: a reference whose audio the clip imitates.

    ``tokens`` (B, audio latent frames, 128) are clean. With ``follows``, a key of this pack, they come after
    the tokens of the clip, as in dubs, and otherwise before them.
    """

    tokens: Tensor
    follows: bool


class Audio(TypedDict):
    """ComfyUI's AUDIO: ``waveform`` is (B, channels, samples), ``sample_rate`` is in Hz."""

    waveform: Tensor
    sample_rate: int

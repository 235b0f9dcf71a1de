"""ComfyUI's VAE class around a network of this pack."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.sd
import torch
from torch import Tensor, nn

from .patcher import make_patcher, remember_dtypes


class HostVAE(comfy.sd.VAE):
    """ComfyUI's VAE class around a network of this pack.

    Its own constructor builds only ComfyUI's networks.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype, *, dynamic: bool) -> None:
        # With an empty state dict the host's constructor sets its attributes and builds no network.
        with _without_vae_warning():
            super().__init__(sd={})
        self.first_stage_model = network.eval().requires_grad_(False)
        self.device, self.vae_dtype = comfy.model_management.vae_device(), dtype
        self.output_device = comfy.model_management.intermediate_device()
        remember_dtypes(network)
        offload = comfy.model_management.vae_offload_device()
        self.patcher = make_patcher(network, self.device, offload, dynamic=dynamic)

    def decode(self, samples_in: Any, *args: Any, **options: Any) -> Tensor:
        decoded: Tensor = super().decode(self._own_stream(samples_in), *args, **options)
        return decoded

    def decode_tiled(self, samples: Any, *args: Any, **options: Any) -> Tensor:
        decoded: Tensor = super().decode_tiled(self._own_stream(samples), *args, **options)
        return decoded

    def decode_tiled_1d(self, samples: Tensor, *args: Any, **options: Any) -> Tensor:
        """The whole latent, where the host falls back to tiles, whose sizes it gets wrong for this audio.

        Raises torch.OutOfMemoryError if there is still no room.
        """
        network: Any = self.first_stage_model
        decoded = network.decode(samples.to(self.device, self.vae_dtype))
        waveform: Tensor = self.process_output(decoded.to(self.output_device, self.vae_output_dtype()))
        return waveform

    def encode_tiled_1d(self, samples: Tensor, *args: Any, **options: Any) -> Tensor:
        """As :meth:`decode_tiled_1d`, for a waveform."""
        network: Any = self.first_stage_model
        waveform = self.process_input(samples).to(self.device, self.vae_dtype)
        latent: Tensor = network.encode(waveform).to(self.output_device, self.vae_output_dtype())
        return latent

    def _own_stream(self, samples: Any) -> Tensor:
        """Take the stream that this VAE decodes from an audio-video latent.

        A plain tensor is returned unchanged.
        """
        streams: Sequence[Tensor] = samples.unbind() if getattr(samples, "is_nested", False) else (samples,)
        # The video comes first, as in ComfyUI's nodes: VAE Decode takes the first stream and the audio node
        # the last.
        return streams[0] if self.latent_dim == 3 else streams[-1]


@contextmanager
def _without_vae_warning() -> Iterator[None]:
    """A context without ComfyUI's warning that a state dict holds no VAE; here it is empty on purpose."""

    def other(record: logging.LogRecord) -> bool:
        return "No VAE weights" not in record.getMessage()

    # The host logs this warning by the root logger, so no other logger could be filtered instead.
    root = logging.getLogger()
    root.addFilter(other)
    try:
        yield
    finally:
        root.removeFilter(other)

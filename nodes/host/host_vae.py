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
    """A ComfyUI VAE whose network is one of this pack; the constructor of ComfyUI's class builds its own.

    ``network`` is a video or an audio VAE. ``dtype`` is that of weights and computation; ``dynamic`` lets
    ComfyUI stream the weights to the device.
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

    def encode(self, pixel_samples: Tensor, *args: Any, **options: Any) -> Tensor:
        self._check_content(pixel_samples)
        encoded: Tensor = super().encode(pixel_samples, *args, **options)
        return encoded

    def encode_tiled(self, pixel_samples: Tensor, *args: Any, **options: Any) -> Tensor:
        self._check_content(pixel_samples)
        encoded: Tensor = super().encode_tiled(pixel_samples, *args, **options)
        return encoded

    def decode(self, samples_in: Any, *args: Any, **options: Any) -> Tensor:
        decoded: Tensor = super().decode(self._own_stream(samples_in), *args, **options)
        return decoded

    def decode_tiled(self, samples: Any, *args: Any, **options: Any) -> Tensor:
        decoded: Tensor = super().decode_tiled(self._own_stream(samples), *args, **options)
        return decoded

    def decode_tiled_3d(self, samples: Tensor, *args: Any, **options: Any) -> Tensor:
        """Decode a video latent: in ComfyUI's tiles by a convolutional decoder, whole by a diffusion decoder.

        A diffusion decoder would treat every tile of the latent as a clip of its own, with seams that no
        overlap hides. It gets the whole latent, and divides the work itself where memory is short.
        """
        network: Any = self.first_stage_model
        if not getattr(network, "decodes_whole", False):
            tiled: Tensor = super().decode_tiled_3d(samples, *args, **options)
            return tiled
        shape = network.decode_output_shape(tuple(samples.shape))
        frames = torch.empty(shape, device=self.output_device, dtype=self.vae_output_dtype())
        network.decode(samples.to(device=self.device, dtype=self.vae_dtype), output_buffer=frames)
        pixels: Tensor = self.process_output(frames)
        return pixels

    def decode_tiled_1d(self, samples: Tensor, *args: Any, **options: Any) -> Tensor:
        """Decode the whole audio latent ``samples`` at once, although ComfyUI calls this to decode in tiles.

        ComfyUI calls this after it has run out of memory, and its tile sizes are wrong for this audio VAE.
        Raises torch.OutOfMemoryError if memory is still too short.
        """
        network: Any = self.first_stage_model
        decoded = network.decode(samples.to(self.device, self.vae_dtype))
        waveform: Tensor = self.process_output(decoded.to(self.output_device, self.vae_output_dtype()))
        return waveform

    def encode_tiled_1d(self, samples: Tensor, *args: Any, **options: Any) -> Tensor:
        """Encode the whole waveform ``samples`` at once, although ComfyUI calls this to encode in tiles.

        ComfyUI calls this after it has run out of memory, and its tile sizes are wrong for this audio VAE.
        """
        network: Any = self.first_stage_model
        waveform = self.process_input(samples).to(self.device, self.vae_dtype)
        latent: Tensor = network.encode(waveform).to(self.output_device, self.vae_output_dtype())
        return latent

    def _own_stream(self, samples: Any) -> Tensor:
        """Take the tensor that this VAE decodes, video or audio, from a nested audio-video latent.

        A tensor that is not nested is returned unchanged. Raises ValueError if it is no latent of this VAE.
        """
        streams: Sequence[Tensor] = samples.unbind() if getattr(samples, "is_nested", False) else (samples,)
        # The video comes first, as in ComfyUI's nodes: VAE Decode takes the first stream and the audio node
        # the last.
        own = streams[0] if self._is_video else streams[-1]
        if own.ndim != self.latent_dim + 2 or own.shape[1] != self.latent_channels:
            form = "frames, rows, columns" if self._is_video else f"frames, {self.extra_1d_channel}"
            raise ValueError(
                f"this is {self._name}, whose latents are (batch, {self.latent_channels}, {form}), and it "
                f"was given {tuple(own.shape)}: {self._hint}"
            )
        return own

    def _check_content(self, content: Tensor) -> None:
        """Raise ValueError if ``content``, as ComfyUI hands it to ``encode``, is not what this VAE encodes.

        That is images (frames, height, width, channels), also in a batch, or a waveform (B, samples,
        channels).
        """
        if (content.ndim == 3) == self._is_video:
            what = ("audio", "images")[content.ndim != 3]
            raise ValueError(f"this is {self._name}, and it was given {what} to encode: {self._hint}")

    @property
    def _is_video(self) -> bool:
        return bool(self.latent_dim == 3)

    @property
    def _name(self) -> str:
        return "the video VAE" if self._is_video else "the audio VAE"

    @property
    def _hint(self) -> str:
        return "connect video_vae for images and video latents, and audio_vae for audio"


@contextmanager
def _without_vae_warning() -> Iterator[None]:
    """A context in which ComfyUI does not log its warning that a state dict holds no VAE.

    This pack creates ComfyUI's VAE with an empty state dict on purpose.
    """

    def other(record: logging.LogRecord) -> bool:
        return "No VAE weights" not in record.getMessage()

    # The host logs this warning by the root logger, so no other logger could be filtered instead.
    root = logging.getLogger()
    root.addFilter(other)
    try:
        yield
    finally:
        root.removeFilter(other)

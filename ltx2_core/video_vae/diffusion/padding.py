"""Padding of latents smaller than the windows of the diffusion decoder, and cropping of their frames."""

from __future__ import annotations

import torch
from torch import Tensor

from ...config import VideoVAEConfig
from .reach import frames_of, least_latents


class Padding:
    """Pads a latent to the smallest size that all windows fit in, by repeating its edges.

    ``cells`` are the (rows, columns) of the latent; the attribute of that name has them after padding. Like
    the official decoder it adds half of the missing rows and columns before the first ones, the rest behind
    the last ones, and repeats the last latent frame. Without ``pad`` nothing is added; where an axis (time,
    rows or columns) is shorter than an attention window, the window is cut to the axis, as in ComfyUI, and
    all other windows stay as they are.
    """

    def __init__(self, vae: VideoVAEConfig, cells: tuple[int, int], *, pad: bool) -> None:
        assert vae.diffusion is not None
        self.config, self.pad = vae.diffusion, pad
        self.time_scale, height, _ = self.config.strides
        self.space_scale = height * vae.patch_size
        self.shape = cells
        least = least_latents(self.config) if self.pad else (1, 1, 1)
        self.least_frames = least[0]
        self.cells = max(cells[0], least[1]), max(cells[1], least[2])
        self.seen = 0
        """Latent frames so far, with those that were added."""
        self._arrived = 0
        self._frames = 0

    def latent_frames(self, frames: int) -> int:
        """How many latent frames a latent of ``frames`` latent frames has after padding."""
        return max(frames, self.least_frames)

    def frames_of(self, latent_frames: int) -> int:
        """How many pixel frames ``latent_frames`` latent frames decode to, padding included in both."""
        if self.pad:
            return frames_of(self.config, latent_frames)
        return self.time_scale * (latent_frames - 1) + 1

    def padded(self, latent: Tensor, last: bool) -> Tensor:
        """Pad the next chunk (B, C, f, h, w) of a latent; chunks are consecutive in time.

        Latent frames are added to the ``last`` chunk only, latent rows and columns to every chunk.
        """
        self._arrived += latent.shape[2]
        for axis, size in ((3, self.cells[0]), (4, self.cells[1])):
            if (missing := size - latent.shape[axis]) > 0:
                latent = _repeated(latent, axis, missing // 2, missing - missing // 2)
        if last and (missing := self.least_frames - self._arrived) > 0:
            latent = _repeated(latent, 2, 0, missing)
        self.seen = max(self._arrived, self.least_frames) if last else self._arrived
        return latent

    def cropped(self, frames: Tensor) -> Tensor:
        """Crop the next decoded frames (B, 3, F, H, W) to the length and size of the latent before padding.

        Calls take the frames of a clip in order; frames that only the padding led to are left out.
        """
        room = self.time_scale * (self._arrived - 1) + 1 - self._frames
        self._frames += frames.shape[2]
        # All frames of the clip may have come already; a negative end would count from the last frame.
        frames = frames[:, :, : max(0, room)]
        for axis, size, padded in ((3, self.shape[0], self.cells[0]), (4, self.shape[1], self.cells[1])):
            if padded > size:
                before = (padded - size) // 2
                frames = frames.narrow(axis, self.space_scale * before, self.space_scale * size)
        return frames


def _repeated(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """x with its first position of ``axis`` repeated ``before`` times, and its last one ``after`` times."""
    first = x.narrow(axis, 0, 1)
    end = x.narrow(axis, x.shape[axis] - 1, 1)
    return torch.cat((*[first] * before, x, *[end] * after), dim=axis)

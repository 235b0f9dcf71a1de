"""The stages that denoise: noise comes in, blocks run between the two ends of each denoising step.

Letters: B batch, T H W time, rows and columns, C channels.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from ..convolution import patchify, unpatchify
from ..streaming import Stream
from .blocks import DiffusionBlock
from .context import Context
from .layers import Norm
from .runs import channels_first, channels_last, tile_corner
from .streams import DecoderStream
from .windows import Span


class NoiseRun:
    """Draws the noise of the pixel frames that the next piece decodes to, cut into patches.

    The piece comes in as features (B, C, t, h, w), the input of the decoder's last upsampler. They are stored
    in the stream under the key ``context``, from which later stages compute the context (the vectors that
    condition denoising). The noise (B, values of a patch, T, H, W) goes out: T pixel frames of H W patches.
    """

    def __init__(self, context: Context, patch_size: int) -> None:
        self.context = context
        self.patch_size = patch_size

    def __call__(self, x: Tensor, stream: Stream, last: bool) -> Tensor:
        assert isinstance(stream, DecoderStream)
        features = channels_last(x)
        times = self.context.span(stream.count(self, features.shape[1]))
        size = self.patch_size
        rows, columns = (
            Span(size * first, size * (first + cells * stride))
            for first, cells, stride in zip(
                stream.origin, features.shape[2:4], self.context.upsample.strides[1:], strict=True
            )
        )
        noise = stream.clip.noise.box(stream.clip.size, times, rows, columns, x)
        stream.hold(self.context, features)
        return patchify(noise, size)


class EnterRun:
    """Begins a denoising step: turns patches of noised frames into the input of the first diffusion block.

    ``layer`` projects the patches, and the conditioning features that the first block ``block`` reads are
    added; ``context`` holds these features for the whole frame or tile. ``corner`` is how many (rows,
    columns) of patches earlier denoising steps took off the top and left side of a tile that is cut out of
    the frame there: the patches begin that far inside ``context``. With ``keep`` the noised patches are
    stored for :class:`LeaveRun`, which ends the step. With ``frees`` the features of these frames are freed
    afterwards; set it where no later step reads them.
    """

    def __init__(
        self,
        layer: nn.Module,
        block: DiffusionBlock,
        context: Context,
        *,
        corner: tuple[int, int],
        keep: bool,
        frees: bool,
    ) -> None:
        self.layer, self.block, self.context = layer, block, context
        self.corner, self.keep, self.frees = corner, keep, frees

    def __call__(self, x: Tensor, stream: Stream, last: bool) -> Tensor:
        assert isinstance(stream, DecoderStream)
        patches = channels_last(x)
        times = stream.count(self, patches.shape[1])
        out: Tensor = self.layer(patches)
        corner = tile_corner(stream, self.corner)
        self.context.add(out, self.block.context_proj, stream, times, corner)
        if self.keep:
            stream.hold(self, patches)
        if self.frees:
            self.context.release(stream, times.stop)
        return channels_first(out)


class LeaveRun:
    """Ends a denoising step: turns the last block's result into the next step's patches, at last into frames.

    ``norm`` and ``layer`` project the result to patches. ``step`` is the diffusion time (1 pure noise, 0
    clean) of this step and of the next one. ``velocity`` says that the network predicts velocities, not clean
    patches. ``entered`` is the stage that began this step, under which the stream holds its noised patches.
    ``taken`` is how many (rows, columns) of patches the blocks of this step do not compute at each side where
    a tile is cut out of the frame, since windows there cross the side.
    """

    def __init__(
        self,
        norm: Norm,
        layer: nn.Module,
        *,
        step: tuple[float, float],
        velocity: bool,
        entered: EnterRun,
        taken: tuple[int, int],
        patch_size: int,
    ) -> None:
        self.norm, self.layer, self.entered, self.taken = norm, layer, entered, taken
        self.step, self.velocity, self.patch_size = step, velocity, patch_size

    def __call__(self, x: Tensor, stream: Stream, last: bool) -> Tensor:
        assert isinstance(stream, DecoderStream)
        blocks = channels_last(x)
        # Frame by frame, so that the normalised frames do not exist all at once.
        patches = torch.cat([self.layer(self.norm(frame)) for frame in blocks.split(1, dim=1)], dim=1)
        if self.entered.keep:
            times = stream.count(self, patches.shape[1])
            patches = self._advanced(patches, stream, times)
        out = channels_first(patches)
        return unpatchify(out, self.patch_size) if self.step[1] == 0 else out

    def _advanced(self, predicted: Tensor, stream: DecoderStream, times: Span) -> Tensor:
        """One Euler step of denoising, computed in float32.

        ``predicted`` (B, T, H, W, C) is what the network predicts for the patches of the pixel frames
        ``times``, counted from the start of the clip. It is applied to the noised patches that ``stream``
        holds, which are then freed. Returns the less noised patches, of the shape of ``predicted``.
        """
        held = stream.held[self.entered].part(times)
        rows, columns = stream.cut.inner(held.shape[2], held.shape[3], self.taken)
        noised = held[:, :, rows.start : rows.stop, columns.start : columns.stop].float()
        now, later = self.step
        velocity = predicted.float() if self.velocity else (noised - predicted.float()) / now
        stream.release(self.entered, times.stop)
        if later == 0 and not self.velocity:
            return predicted
        return (noised + (later - now) * velocity).to(predicted.dtype)


def diffusion_times(steps: int) -> list[tuple[float, float]]:
    """For each of ``steps`` denoising steps the pair of its diffusion time and of that of the next step.

    The times fall evenly from 1 (pure noise); after the last step comes 0.
    """
    times = torch.linspace(1, 1 / steps, steps, dtype=torch.float32).tolist()
    return list(pairwise([*times, 0.0]))

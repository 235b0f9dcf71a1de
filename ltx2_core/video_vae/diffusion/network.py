"""The network of the diffusion decoder, and the chains of stages by which it runs over a clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...config import VideoVAEConfig
from ..streaming import Stage
from .blocks import Block, DiffusionBlock
from .context import Context
from .denoising import EnterRun, LeaveRun, NoiseRun, diffusion_times
from .layers import Layers, SharedModulation, TimeEmbedder, Upsample
from .runs import BlockRun, LinearRun, UpsampleRun


class Decoder(nn.Module):
    """Stages that turn a latent into features, and a diffusion stage, conditioned on them, that makes frames.

    The features, one vector for each patch of a pixel frame, are called the context; frames start as noise.
    ``z`` (B, C, f, h, w), not normalised, becomes frames (B, 3, F, H, W). The architecture is that of
    ``NADiffusionDecoder`` in Lightricks/LTX-2.
    """

    def __init__(
        self,
        config: VideoVAEConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        assert config.diffusion is not None
        self.config = config.diffusion
        self.patch_size = config.patch_size
        layers, head = Layers(dtype, device, operations), self.config.head_dim
        width, patch = self.config.channels, config.channels * config.patch_size**2
        # All layers named after convolutions are linear ones.
        self.conv_in = layers.linear(config.latent_channels, self.config.stages[0].channels)
        self.det_stages = nn.ModuleList(
            nn.ModuleList(Block(s.channels, s.kernel, head, layers) for _ in range(s.depth))
            for s in self.config.stages
        )
        self.upsamples = nn.ModuleList(
            Upsample(s.channels, s.strides, s.reduction, layers) for s in self.config.stages
        )
        self.t_embedder = TimeEmbedder(self.config.time_dim, layers)
        self.shared_adaln = SharedModulation(width, self.config.time_dim, layers)
        self.conv_in_x_t = layers.linear(patch, width)
        self.diff_blocks = nn.ModuleList(
            DiffusionBlock(width, self.config.kernel, head, layers) for _ in range(self.config.depth)
        )
        self.norm_out = layers.norm(width)
        self.conv_out = layers.linear(width, patch)

    def first_stages(self) -> list[Stage]:
        """The first stages, from the latent on; they run on whole frames, also where the rest runs in tiles.

        They end before the last upsampler but one.
        """
        stages = [Stage(LinearRun(self.conv_in), self._growth(self.conv_in))]
        for number in range(len(self.config.stages) - 1):
            stages += self._blocks(number)
            if number < len(self.config.stages) - 2:
                stages.append(self._upsample(number))
        return stages

    def context_stages(self) -> list[Stage]:
        """The stages from the result of ``first_stages`` to the input of the last upsampler.

        The output of that upsampler is the context: the features that condition the diffusion stage.
        """
        last = len(self.config.stages) - 1
        return ([self._upsample(last - 1)] if last else []) + self._blocks(last)

    def diffusion_stages(self, like: Tensor) -> list[Stage]:
        """The stages from the input of the last upsampler to frames: noise, then all denoising steps.

        The scales and shifts that they compute once, from the diffusion times, have the dtype and device of
        the tensor ``like``.
        """
        upsample = self.upsamples[-1]
        assert isinstance(upsample, Upsample)
        context = Context(upsample)
        stages = [Stage(NoiseRun(context, self.patch_size), upsample.growth)]
        reach = self.config.kernel[1] // 2, self.config.kernel[2] // 2
        times = diffusion_times(self.config.steps)
        velocity = self.config.prediction == "v"
        blocks = [block for block in self.diff_blocks if isinstance(block, DiffusionBlock)]
        for number, step in enumerate(times):
            shared = self.shared_adaln(self.t_embedder(self.config.time_scale * step[0], like))
            corners = _corners(number * len(blocks), len(blocks), reach)
            final = number == len(times) - 1
            enter = EnterRun(
                self.conv_in_x_t,
                blocks[0],
                context,
                corner=corners[0],
                keep=velocity or not final,
                frees=final and len(blocks) == 1,
            )
            stages.append(Stage(enter))
            for at, block in enumerate(blocks):
                after = blocks[at + 1] if at + 1 < len(blocks) else None
                run = BlockRun(
                    block,
                    modulation=block.modulation(shared),
                    context=context,
                    after=after,
                    corner=corners[at + 1],
                    # The last block but one adds the last block's context, after which nothing reads it.
                    frees=final and at == len(blocks) - 2,
                )
                stages.append(_stage(run))
            taken = reach[0] * len(blocks), reach[1] * len(blocks)
            leave = LeaveRun(
                self.norm_out,
                self.conv_out,
                step=step,
                velocity=velocity,
                entered=enter,
                taken=taken,
                patch_size=self.patch_size,
            )
            stages.append(Stage(leave))
        return stages

    def context_growth(self) -> float:
        """How many times as large the last upsampler's result, the context, is as its input; at least 1."""
        return max(1.0, _upsample_of(self, -1).growth)

    def _blocks(self, number: int) -> list[Stage]:
        blocks = self.det_stages[number]
        assert isinstance(blocks, nn.ModuleList)
        return [_stage(BlockRun(block)) for block in blocks if isinstance(block, Block)]

    def _upsample(self, number: int) -> Stage:
        layer = _upsample_of(self, number)
        return Stage(UpsampleRun(layer), max(1.0, layer.growth))

    def _growth(self, layer: nn.Linear) -> float:
        return max(1.0, self.config.stages[0].channels / layer.in_features)


def _stage(run: BlockRun) -> Stage:
    """Make a stage of ``run``, an attention block, which lags half its attention window behind its input."""
    return Stage(run, lag=run.block.kernel[0] // 2)


def _upsample_of(decoder: Decoder, number: int) -> Upsample:
    layer = decoder.upsamples[number]
    assert isinstance(layer, Upsample)
    return layer


def _corners(before: int, blocks: int, reach: tuple[int, int]) -> Sequence[tuple[int, int]]:
    """How many (rows, columns) of patches of a tile are lost at each side where it is cut out of the frame.

    Each attention block loses ``reach`` (rows, columns) there, since it computes only positions whose windows
    lie within the tile. Returns ``blocks`` + 1 pairs: the loss after ``before`` blocks, after ``before`` + 1,
    and so on to ``before + blocks``.
    """
    return [(reach[0] * n, reach[1] * n) for n in range(before, before + blocks + 1)]

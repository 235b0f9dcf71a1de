"""Fits the layers of a decoder one after another by ridge regression, each to the truth of its own scale.

After :mod:`.linear_decoder` the channels of a level are components of blocks of the picture, and their true
values are known. So a convolution that is linear in its weights need not be trained: least squares over its
whole kernel finds the best one at once. In a residual branch the first convolution stays random and the
second is fitted on the features that it makes (an extreme learning machine: Huang et al., 2006).

B clips, C channels, T H W grid of a level, D numbers of a block, K components.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ...shapes import TEMPORAL_SCALE
from ...video_vae.decoder import Decoder
from ...video_vae.layers import ResBlocks, StreamConv3d, Upsample, normed, patchify
from ..data import ClipSize, draw_seeds, video_batch
from .linear_decoder import Blocks
from .video_code import POOL, EncodesVideo

_ROWS = 30_000
"""Positions that one layer is fitted on."""

_CLIPS = 300
"""Fewest clips: positions of one clip are much alike."""

_RIDGE = 1e-3
"""Of the features' mean power."""

_CUTS = 0.5
"""Share of clips that change the scene half-way: else a decoder learns to take colours from its neighbours,
and what is generated beside a given frame shines into it."""

OnLayer = Callable[[str, float], None]
"""Called with a layer's name and the error that it leaves, over the power of its targets."""


@dataclass
class _Clip:
    """What a clip is at the level that is being fitted, and where its truth comes from."""

    x: Tensor  # (1, C, T, H, W)
    scenes: tuple[int, int]
    cut: int  # the frame from which the second scene is shown
    size: ClipSize

    @property
    def frames(self) -> Tensor:
        """(1, 3, F, H, W), drawn anew: that takes less than keeping them."""
        size = self.size
        drawn = [self.scenes[0]] if self.cut == size.frames else list(self.scenes)
        shown = video_batch(drawn, frames=size.frames, width=size.width, height=size.height)
        return torch.cat((shown[:1, :, : self.cut], shown[-1:, :, self.cut :]), dim=2)

    def truth(self, blocks: Blocks, length: int) -> Tensor:
        """True components (1, K, length, H, W) of its blocks, the last ``length`` in time."""
        t, y, x = blocks.shape
        small = F.avg_pool3d(self.frames, (1, POOL, POOL))
        held = small[:, :, :1].expand(-1, -1, TEMPORAL_SCALE, -1, -1)
        video = torch.cat((held, small[:, :, 1:]), dim=2)
        found = rearrange(video, "b c (f t) (h y) (w x) -> b f h w (c t y x)", t=t, y=y, x=x)
        return ((found - blocks.mean) @ blocks.read).movedim(-1, 1)[:, :, -length:]


@torch.no_grad()
def fit_decoder(
    decoder: Decoder,
    levels: Sequence[Blocks],
    codes: Sequence[EncodesVideo],
    *,
    sizes: Sequence[ClipSize],
    noise: float,
    seed: int = 0,
    on_layer: OnLayer | None = None,
) -> None:
    """Fit every layer of a decoder that :func:`.linear_decoder.start_linear_decoder` has set.

    ``levels`` are what that returned. Latents are those of ``codes``, clip by clip in turn, with ``noise`` on
    them: a decoder that has also seen what the encoder makes of the code forgives its errors.
    """
    generator = torch.Generator().manual_seed(seed)
    clips = _make_clips(codes, sizes, noise, generator)
    tell = on_layer or (lambda name, error: None)
    for clip in clips:
        clip.x = _convolved(decoder.conv_in, clip.x)
    level = 0
    for number, block in enumerate(decoder.up_blocks):
        clips = _enough(clips)
        if isinstance(block, Upsample):
            tell(f"up_blocks.{number}", _fit_upsample(block, levels[level + 1], clips, generator))
            level += 1
        else:
            assert isinstance(block, ResBlocks)
            for index, branch in enumerate(block.res_blocks):
                error = _fit_branch(branch, levels[level], clips, generator)
                tell(f"up_blocks.{number}.res_blocks.{index}", error)
    tell("conv_out", _fit_pixels(decoder, clips, generator))


def _make_clips(
    codes: Sequence[EncodesVideo], sizes: Sequence[ClipSize], noise: float, generator: torch.Generator
) -> list[_Clip]:
    clips: list[_Clip] = []
    for size in sizes:
        scenes = draw_seeds(generator, size.batch)
        for first, second in zip(scenes, [*scenes[1:], scenes[0]], strict=True):
            chance, where = torch.rand(2, generator=generator).tolist()
            cells = (size.frames - 1) // TEMPORAL_SCALE
            cut = 1 + int(where * cells) * TEMPORAL_SCALE if chance < _CUTS else size.frames
            clip = _Clip(torch.empty(0), (first, second), cut, size)
            code = codes[len(clips) % len(codes)]
            latent = code.encode(clip.frames)
            latent = latent + noise * torch.randn(latent.shape, generator=generator)
            clip.x = code.per_channel_statistics.un_normalize(latent)
            clips.append(clip)
    order = torch.randperm(len(clips), generator=generator).tolist()
    return [clips[index] for index in order]


def _enough(clips: list[_Clip]) -> list[_Clip]:
    """As many as have the positions that are needed, but enough different ones: larger grids need fewer."""
    places = torch.tensor([clip.x[0, 0].numel() for clip in clips]).cumsum(0)
    return clips[: max(_CLIPS, int((places < 2 * _ROWS).sum()) + 1)]


def _fit_upsample(block: Upsample, parts: Blocks, clips: list[_Clip], generator: torch.Generator) -> float:
    strides = dict(zip("pqr", block.strides, strict=True))
    used = parts.basis.shape[1]

    def target(clip: _Clip) -> Tensor:
        true = clip.truth(parts, clip.x.shape[2] * block.strides[0])
        return rearrange(true, "b c (t p) (h q) (w r) -> b (c p q r) t h w", **strides)

    weight, bias, error = _ridge([(clip.x, target(clip)) for clip in clips], generator)
    cell = block.strides[0] * block.strides[1] * block.strides[2]
    _write(block.conv, weight, bias, negated=used * cell if parts.paired else 0)
    for clip in clips:
        h = rearrange(_convolved(block.conv, clip.x), "b (c p q r) t h w -> b c (t p) (h q) (w r)", **strides)
        clip.x = h[:, :, 1:] if block.strides[0] == 2 else h
    return error


def _fit_branch(branch: nn.Module, blocks: Blocks, clips: list[_Clip], generator: torch.Generator) -> float:
    """The second convolution of a residual branch, on what the first makes of the level's values."""
    conv1, conv2 = branch.get_submodule("conv1"), branch.get_submodule("conv2")
    assert isinstance(conv1, StreamConv3d) and isinstance(conv2, StreamConv3d)
    used = blocks.basis.shape[1]
    pairs = []
    for clip in clips:
        features = normed(_convolved(conv1, normed(clip.x)))
        pairs.append((features, clip.truth(blocks, clip.x.shape[2]) - clip.x[:, :used]))
    weight, bias, error = _ridge(pairs, generator)
    conv2.conv.weight.zero_()
    assert conv2.conv.bias is not None
    conv2.conv.bias.zero_()
    _write(conv2, weight, bias, negated=used if blocks.paired else 0)
    for clip, (features, _) in zip(clips, pairs, strict=True):
        clip.x = clip.x + _convolved(conv2, features)
    return error


def _fit_pixels(decoder: Decoder, clips: list[_Clip], generator: torch.Generator) -> float:
    pairs = [(normed(clip.x), patchify(clip.frames, decoder.patch_size)) for clip in clips]
    weight, bias, error = _ridge(pairs, generator)
    _write(decoder.conv_out, weight, bias)
    return error


def _ridge(
    pairs: Sequence[tuple[Tensor, Tensor]], generator: torch.Generator
) -> tuple[Tensor, Tensor, float]:
    """(inputs, targets), each (1, channels, T, H, W) -> kernels (O, C, 3, 3, 3), biases (O,), the error."""
    total = sum(target[0, 0].numel() for _, target in pairs)
    seen, wanted = [], []
    for x, target in pairs:
        places = target[0, 0].numel()
        count = min(places, max(1, round(_ROWS * places / total)))
        rows = torch.randperm(places, generator=generator)[:count]
        windows = F.pad(_held(x), (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).unfold(4, 3, 1)
        h, w = target.shape[3:]
        at = rows // (h * w), rows // w % h, rows % w
        seen.append(windows[0].permute(1, 2, 3, 0, 4, 5, 6)[at].flatten(1))
        wanted.append(target[0].flatten(1).mT[rows])
    inputs, outputs = torch.cat(seen), torch.cat(wanted)
    centre, middle = inputs.mean(dim=0), outputs.mean(dim=0)
    inputs, outputs = inputs - centre, outputs - middle
    gram = inputs.mT @ inputs
    gram.diagonal().add_(_RIDGE * float(gram.diagonal().mean()))
    solution = torch.linalg.solve(gram, inputs.mT @ outputs)
    error = float((outputs - inputs @ solution).square().sum() / outputs.square().sum())
    kernels = solution.mT.unflatten(1, (-1, 3, 3, 3))
    return kernels, middle - centre @ solution, error


def _held(x: Tensor) -> Tensor:
    """With the first and the last frame once more."""
    return torch.cat((x[:, :, :1], x, x[:, :, -1:]), dim=2)


def _convolved(layer: StreamConv3d, x: Tensor) -> Tensor:
    return layer.convolve(_held(x))


def _write(layer: StreamConv3d, kernels: Tensor, biases: Tensor, *, negated: int = 0) -> None:
    """Kernels and biases for the first channels; with ``negated`` the next as many get them negated."""
    conv, count = layer.conv, len(kernels)
    conv.weight[:count], conv.bias[:count] = kernels, biases
    if negated:
        assert negated == count
        conv.weight[count : 2 * count], conv.bias[count : 2 * count] = -kernels, -biases

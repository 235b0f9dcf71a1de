"""Fits the layers of a video decoder by ridge regression, one after another, each at its own resolution.

After :mod:`.linear_decoder` the channels of a layer are principal components of blocks of the frames, and
their true values are known. A convolution is linear in its weights, so least squares finds its best kernel
without gradient steps. In a residual branch the first convolution stays random and the second is fitted on
the features that the first computes (an extreme learning machine: Huang et al., 2006).

Letters: B clips, C channels, T H W frames, rows and columns of the grid of a layer's output, K principal
components of a block: the box of pixels and frames for which one position of the grid stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ...shapes import TEMPORAL_SCALE
from ...video_vae.convolution import StreamConv3d, normed, patchify
from ...video_vae.decoder import Decoder
from ...video_vae.layers import Upsample
from ...video_vae.residual import ResBlocks
from ..world.batches import ClipSize, draw_seeds, video_batch
from .linear_decoder import Blocks
from .video_code import POOL, EncodesVideo

_ROWS = 30_000
"""Number of positions on which one layer is fitted."""

_CLIPS = 300
"""Least number of clips, because the positions of one clip are much alike."""

_RIDGE = 1e-3
"""Ridge penalty, relative to the mean power of the features."""

_CUTS = 0.5
"""Share of clips that change the scene half-way. Without them a decoder takes colours from neighbouring
frames, and generated frames bleed into a preserved one next to them."""

OnLayer = Callable[[str, float], None]
"""Called with the name of a layer and its squared error relative to the power of its targets."""


@dataclass
class _Clip:
    """One clip on which the decoder is fitted.

    ``x`` (1, C, T, H, W) is the output of the layers that are fitted so far, and so the input of the next
    layer. ``scenes`` are the seeds of two scenes of the synthetic world; the clip changes from the first to
    the second at pixel frame ``cut``. Its true frames, of ``size``, are rendered from them when needed.
    """

    x: Tensor
    """(1, C, T, H, W)."""
    scenes: tuple[int, int]
    cut: int
    """The frame at which the second scene begins."""
    size: ClipSize

    @property
    def frames(self) -> Tensor:
        """The true frames (1, 3, F, H, W).

        They are rendered at each access, because holding those of all clips takes too much memory.
        """
        size = self.size
        # A clip without a cut needs only one rendering.
        drawn = [self.scenes[0]] if self.cut == size.frames else list(self.scenes)
        rendered = video_batch(drawn, frames=size.frames, width=size.width, height=size.height)
        return torch.cat((rendered[:1, :, : self.cut], rendered[-1:, :, self.cut :]), dim=2)

    def truth(self, blocks: Blocks, length: int) -> Tensor:
        """True principal components (1, K, length, H, W) of the clip's frames: a layer's targets.

        ``blocks`` says which components: a block is the box of pooled pixels (each the mean of 2 x 2) for
        which one position of the layer's grid stands. ``length`` is how many steps of the grid in time are
        returned, the last ones.
        """
        t, y, x = blocks.shape
        small = F.avg_pool3d(self.frames, (1, POOL, POOL))
        # As in the encoder, the first frame stands for a whole cell in time.
        first = small[:, :, :1].expand(-1, -1, TEMPORAL_SCALE, -1, -1)
        video = torch.cat((first, small[:, :, 1:]), dim=2)
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
    """Fit every convolution of a decoder in place.

    :func:`.linear_decoder.start_linear_decoder` must have set the decoder before.

    Args:
        decoder: its convolutions are fitted in the order in which they run. Each one is fitted on the output
            of the fitted ones before it.
        levels: the list that ``start_linear_decoder`` returned: what the channels mean at each resolution.
        codes: video encoders, used for one clip each in turn. With the trained encoder among them, the
            decoder learns to tolerate its errors.
        sizes: number, length and size of the clips that are rendered for the fit.
        noise: standard deviation of the noise that is added to normalised latents.
        seed: seed of scenes and noise.
        on_layer: called after each layer with its name and relative squared error.
    """
    generator = torch.Generator().manual_seed(seed)
    clips = _draw_clips(codes, sizes, noise, generator)
    report = on_layer or (lambda name, error: None)
    for clip in clips:
        clip.x = _convolved(decoder.conv_in, clip.x)
    level = 0
    for number, block in enumerate(decoder.up_blocks):
        # Each upsampling multiplies the positions of a clip, so that fewer clips suffice from there on.
        clips = _enough(clips)
        if isinstance(block, Upsample):
            report(f"up_blocks.{number}", _fit_upsample(block, levels[level + 1], clips, generator))
            level += 1
        else:
            assert isinstance(block, ResBlocks)
            for index, branch in enumerate(block.res_blocks):
                error = _fit_branch(branch, levels[level], clips, generator)
                report(f"up_blocks.{number}.res_blocks.{index}", error)
    report("conv_out", _fit_pixels(decoder, clips, generator))


def _draw_clips(
    codes: Sequence[EncodesVideo], sizes: Sequence[ClipSize], noise: float, generator: torch.Generator
) -> list[_Clip]:
    clips: list[_Clip] = []
    for size in sizes:
        scenes = draw_seeds(generator, size.batch)
        for first, second in zip(scenes, [*scenes[1:], scenes[0]], strict=True):
            chance, where = torch.rand(2, generator=generator).tolist()
            cells = (size.frames - 1) // TEMPORAL_SCALE
            # At the border of a latent frame, where preserved and generated frames meet.
            cut = 1 + int(where * cells) * TEMPORAL_SCALE if chance < _CUTS else size.frames
            clip = _Clip(torch.empty(0), (first, second), cut, size)
            code = codes[len(clips) % len(codes)]
            latent = code.encode(clip.frames)
            # Sampled latents are never exact, and the decoder is fitted to tolerate that.
            latent = latent + noise * torch.randn(latent.shape, generator=generator)
            clip.x = code.per_channel_statistics.un_normalize(latent)
            clips.append(clip)
    # Shuffled, so that the first clips are of all sizes when fewer are used.
    order = torch.randperm(len(clips), generator=generator).tolist()
    return [clips[index] for index in order]


def _enough(clips: list[_Clip]) -> list[_Clip]:
    """The first 300 of ``clips``, or more if their inputs ``x`` have fewer than 60,000 positions in all.

    Then as many clips as it takes to reach 60,000 are returned, or all. A position is one of the T x H x W
    grid points of a clip's ``x`` (1, C, T, H, W).
    """
    positions = torch.tensor([clip.x[0, 0].numel() for clip in clips]).cumsum(0)
    return clips[: max(_CLIPS, int((positions < 2 * _ROWS).sum()) + 1)]


def _fit_upsample(block: Upsample, parts: Blocks, clips: list[_Clip], generator: torch.Generator) -> float:
    """Fit the convolution of an upsampling block to output principal components of the clips' true frames.

    ``parts`` says which components the output channels stand for; those of the true frames are the targets.
    The fitted block then replaces the activations of ``clips`` by its outputs. ``generator`` draws the
    positions that are fitted. Returns the squared error relative to the power of the targets.
    """
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
        # As in the decoder, the first frame after an upsampling in time is dropped.
        clip.x = h[:, :, 1:] if block.strides[0] == 2 else h
    return error


def _fit_branch(branch: nn.Module, blocks: Blocks, clips: list[_Clip], generator: torch.Generator) -> float:
    """Fit the second convolution of a residual branch, so that branch plus skip come closest to the targets.

    The targets are principal components of the clips' true frames; ``blocks`` says which ones the channels
    stand for. The first convolution stays random. The result of the fitted branch is then added to the
    activations of ``clips``. ``generator`` draws the positions that are fitted. Returns the squared error of
    the branch relative to the power of what it should add.
    """
    conv1, conv2 = branch.get_submodule("conv1"), branch.get_submodule("conv2")
    assert isinstance(conv1, StreamConv3d)
    assert isinstance(conv2, StreamConv3d)
    used = blocks.basis.shape[1]
    pairs = []
    for clip in clips:
        features = normed(_convolved(conv1, normed(clip.x)))
        # The branch learns what the skip still lacks.
        pairs.append((features, clip.truth(blocks, clip.x.shape[2]) - clip.x[:, :used]))
    weight, bias, error = _ridge(pairs, generator)
    # Channels that have no true value get nothing from the branch.
    conv2.conv.weight.zero_()
    assert conv2.conv.bias is not None
    conv2.conv.bias.zero_()
    _write(conv2, weight, bias, negated=used if blocks.paired else 0)
    for clip, (features, _) in zip(clips, pairs, strict=True):
        clip.x = clip.x + _convolved(conv2, features)
    return error


def _fit_pixels(decoder: Decoder, clips: list[_Clip], generator: torch.Generator) -> float:
    """Fit the decoder's last convolution, from the activations of ``clips`` to their true pixels.

    ``generator`` draws the positions that are fitted. Returns the squared error relative to the power of the
    targets.
    """
    pairs = [(normed(clip.x), patchify(clip.frames, decoder.patch_size)) for clip in clips]
    weight, bias, error = _ridge(pairs, generator)
    _write(decoder.conv_out, weight, bias)
    return error


def _ridge(
    pairs: Sequence[tuple[Tensor, Tensor]], generator: torch.Generator
) -> tuple[Tensor, Tensor, float]:
    """Fit a 3 x 3 x 3 convolution by ridge regression on ``pairs`` of input and target.

    Inputs are (1, C, T, H, W), targets (1, O, T, H, W); ``generator`` draws the positions that are used.
    Returns kernels (O, C, 3, 3, 3), biases (O,) and the squared error relative to the power of the targets.
    """
    total = sum(target[0, 0].numel() for _, target in pairs)
    windows_of, targets_of = [], []
    for x, target in pairs:
        positions = target[0, 0].numel()
        # Rows in proportion to the positions of a clip, so that all positions count alike.
        count = min(positions, max(1, round(_ROWS * positions / total)))
        rows = torch.randperm(positions, generator=generator)[:count]
        windows = F.pad(_padded_in_time(x), (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).unfold(4, 3, 1)
        h, w = target.shape[3:]
        at = rows // (h * w), rows // w % h, rows % w
        # Indexed before it is flattened: the windows of all positions would take 27 times the memory of the
        # input.
        windows_of.append(windows[0].permute(1, 2, 3, 0, 4, 5, 6)[at].flatten(1))
        targets_of.append(target[0].flatten(1).mT[rows])
    inputs, outputs = torch.cat(windows_of), torch.cat(targets_of)
    centre, middle = inputs.mean(dim=0), outputs.mean(dim=0)
    # Centred, so that the penalty does not shrink the bias.
    inputs, outputs = inputs - centre, outputs - middle
    gram = inputs.mT @ inputs
    # Relative to the power of the features, so that one penalty suits every level.
    gram.diagonal().add_(_RIDGE * float(gram.diagonal().mean()))
    solution = torch.linalg.solve(gram, inputs.mT @ outputs)
    error = float((outputs - inputs @ solution).square().sum() / outputs.square().sum())
    kernels = solution.mT.unflatten(1, (-1, 3, 3, 3))
    return kernels, middle - centre @ solution, error


def _padded_in_time(x: Tensor) -> Tensor:
    """Pad ``x`` (B, C, T, H, W) in time by a copy of its first and a copy of its last step: T + 2 steps."""
    return torch.cat((x[:, :, :1], x, x[:, :, -1:]), dim=2)


def _convolved(layer: StreamConv3d, x: Tensor) -> Tensor:
    return layer.convolve(_padded_in_time(x))


def _write(layer: StreamConv3d, kernels: Tensor, biases: Tensor, *, negated: int = 0) -> None:
    """Write fitted ``kernels`` and ``biases`` into the first output channels of a convolution.

    ``negated`` is 0, or equals the number of kernels: then as many output channels after them get the same
    weights with opposite sign.
    """
    conv, count = layer.conv, len(kernels)
    conv.weight[:count], conv.bias[:count] = kernels, biases
    if negated:
        assert negated == count
        conv.weight[count : 2 * count], conv.bias[count : 2 * count] = -kernels, -biases

"""Sets a video encoder to a linear one, fitted to the video code on single cells, which takes minutes.

A cell is what one latent position stands for: 8 frames of 32 x 32 pixels. The video code is a fixed linear
encoder. Without residual branches, and with only the centre of each kernel, the encoder is linear and maps
each cell by itself, so it can be fitted without convolutions. A closed form does not exist because the skips
of its downsampling blocks average channels. A constant added before the last norm makes norm and SiLU nearly
linear.

Letters: N cells, t y x frames, rows and columns of the grid inside a cell, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from ...video_vae.convolution import normed
from ...video_vae.encoder import Encoder
from ...video_vae.layers import Downsample
from ..world.batches import ClipSize
from .video_code import POOL, VideoCode, pooled_grid, sample_cells

_CONSTANT = 8.0
"""The constant before the last norm, in standard deviations of the values."""

_FLAT = 0.1
"""Cells of a single colour that are fitted for each cell with an edge.

Cells of a single colour are easy, and would otherwise be half of all cells.
"""

OnStep = Callable[[int, float], None]
"""Called with the step and the squared error on held-out cells, relative to their power."""


def start_linear_encoder(
    encoder: Encoder,
    code: VideoCode,
    *,
    sizes: Sequence[ClipSize],
    steps: int = 700,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> float:
    """Set the convolutions of ``encoder`` to compute ``code``, a fixed linear encoder, in place.

    The residual branches must still output zero. The convolutions are fitted by ``steps`` steps of Adam on
    cells (8 frames of 32 x 32 pixels) of clips of ``sizes``. ``on_step`` is called with the step and the
    error. Returns the squared error on held-out cells, relative to the power of their codes.
    """
    generator = torch.Generator().manual_seed(seed)
    cells = _fitted_cells(sample_cells(sizes, generator), generator)
    patches = pooled_grid(cells, encoder.patch_size // POOL)
    # Normalised latents, so that components count by how much they matter to the frames.
    target = (cells - code.mean) @ (code.basis * (code.amplitude / code.deviation))
    downsamplers = [block for block in encoder.down_blocks if isinstance(block, Downsample)]
    weights = _first_guess(patches, target, encoder.conv_in.out_channels, downsamplers, generator)
    error = _fit(patches, target, weights, downsamplers, steps, generator, on_step)
    with torch.no_grad():
        _write(encoder, code, patches, target, weights, downsamplers)
    return error


def _fitted_cells(cells: Tensor, generator: torch.Generator) -> Tensor:
    """Select from ``cells`` (N, D) all that contain an edge and a few that do not, in random order.

    N is the number of cells and D that of values in each (8 frames of 16 x 16 pooled pixels in 3 colours).
    Returns the selected rows (fewer, D).
    """
    spread = rearrange(cells, "n (c d) -> n c d", c=3).var(dim=2).sum(dim=1) > 1e-4
    flat = cells[~spread]
    chosen = torch.cat((cells[spread], flat[: int(_FLAT * int(spread.sum()))]))
    return chosen[torch.randperm(len(chosen), generator=generator)]


def _down(x: Tensor, weight: Tensor, block: Downsample) -> Tensor:
    """Apply a downsampling block to the cells: x (N, t, y, x, C) -> (N, t', y', x', C').

    Each cell is a grid of t frames, y rows and x columns of C channels. ``weight`` (inputs, outputs) is the
    centre of the block's kernel; the rest of the kernel counts as zero.
    """
    # The skip has no weights, so that the weights are fitted around it.
    skip = reduce(_to_cells(x, block), "n t h w (c g) -> n t h w c", "mean", c=block.out_channels)
    return _to_cells(x @ weight, block) + skip


def _to_cells(x: Tensor, block: Downsample) -> Tensor:
    p, q, r = block.strides
    return rearrange(x, "n (t p) (h q) (w r) c -> n t h w (c p q r)", p=p, q=q, r=r)


def _run(patches: Tensor, weights: Sequence[Tensor], blocks: Sequence[Downsample]) -> Tensor:
    """Run the linear encoder: patches (N, t, y, x, C) -> the values before the last norm, (N, C).

    ``weights`` (inputs, outputs) are those of the first convolution, then one for each downsampling block.
    """
    x = patches @ weights[0]
    for weight, block in zip(weights[1:], blocks, strict=False):
        x = _down(x, weight, block)
    return x.flatten(1)


@torch.no_grad()
def _first_guess(
    patches: Tensor,
    target: Tensor,
    width: int,
    blocks: Sequence[Downsample],
    generator: torch.Generator,
) -> list[Tensor]:
    """Compute the weights of the linear encoder from which its fit by Adam starts.

    The encoder's input for N cells is ``patches`` (N, t, y, x, C). The weights are, in order: a random
    orthogonal matrix from C to ``width`` channels; for each downsampling block of ``blocks`` the principal
    components of its input; then matrix and bias of the output, by least squares to ``target`` (N,
    components).
    """
    first = torch.empty(patches.shape[-1], width)
    weights = [nn.init.orthogonal_(first, generator=generator)]
    x = patches @ first
    for block in blocks:
        inputs = x.flatten(0, -2)
        # The covariance needs no more rows.
        inputs = inputs[:: max(1, len(inputs) // 60_000)]
        inputs = inputs - inputs.mean(dim=0)
        _, vectors = torch.linalg.eigh(inputs.mT @ inputs)
        weights.append(vectors.flip(1)[:, : block.conv.out_channels].contiguous())
        x = _down(x, weights[-1], block)
    values = x.flatten(1)
    # The column of ones is the bias.
    solution = least_squares(torch.cat((values, values.new_ones(len(values), 1)), 1), target)
    return [*weights, solution[:-1].contiguous(), solution[-1].contiguous()]


def least_squares(values: Tensor, target: Tensor) -> Tensor:
    """The matrix X (K, C) for which ``values`` (N, K) @ X comes closest to ``target`` (N, C).

    The result is the same bit for bit in every process, unlike that of ``torch.linalg.lstsq``, whose rounding
    depends on the addresses of its working memory.
    """
    wide = values.double()
    gram = wide.mT @ wide
    # Inputs may depend on each other, for which the smallest solution is as good as any.
    gram.diagonal().add_(1e-10 * float(gram.trace()) / len(gram))
    solution: Tensor = torch.linalg.solve(gram, wide.mT @ target.double())
    return solution.to(target.dtype)


def _fit(
    patches: Tensor,
    target: Tensor,
    weights: list[Tensor],
    blocks: Sequence[Downsample],
    steps: int,
    generator: torch.Generator,
    on_step: OnStep | None,
) -> float:
    """Fit all ``weights`` of the linear encoder by ``steps`` steps of Adam, in place.

    ``patches`` (N, t, y, x, C) are its inputs for N cells, ``blocks`` its downsampling blocks, ``target`` (N,
    components) what it should return. ``on_step`` is called with step and error from time to time. Returns
    the squared error on the held-out last tenth of the cells, relative to the power of ``target``.
    """
    for weight in weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.Adam(weights, lr=2e-3)
    # Constant for half of the steps, then linearly to zero.
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 2 * (steps - step) / steps))
    held_out = max(1, len(patches) // 10)

    def error_on(rows: Tensor | slice) -> Tensor:
        found = _run(patches[rows], weights[:-2], blocks) @ weights[-2] + weights[-1]
        return (found - target[rows]).square().sum() / target[rows].square().sum()

    for step in range(steps):
        # The last tenth is never drawn; cells are shuffled, so that it is a fair sample.
        rows = torch.randint(len(patches) - held_out, (min(512, len(patches)),), generator=generator)
        optimizer.zero_grad()
        error_on(rows).backward()
        optimizer.step()
        schedule.step()
        if on_step is not None and (step % 100 == 99 or step == steps - 1):
            with torch.no_grad():
                on_step(step + 1, float(error_on(slice(-held_out, None))))
    for weight in weights:
        weight.requires_grad_(False)
    with torch.no_grad():
        return float(error_on(slice(-held_out, None)))


def _write(
    encoder: Encoder,
    code: VideoCode,
    patches: Tensor,
    target: Tensor,
    weights: Sequence[Tensor],
    blocks: Sequence[Downsample],
) -> None:
    """Write the fitted ``weights`` of a linear encoder into the convolutions of ``encoder``.

    ``weights`` are those of the first convolution, one matrix for each of the downsampling ``blocks`` of
    ``encoder``, and matrix and bias of the output. These last two are not read: the last convolution, which
    follows norm and SiLU, is fitted again by least squares. N cells have the inputs ``patches`` (N, t, y, x,
    C) and the normalised latents ``target`` (N, components); ``code`` has the factors of the normalisation.
    """
    # Pixels are pooled by the first convolution. In a patch of pixels rows vary fastest, in a pooled one
    # columns.
    size = encoder.patch_size
    pooled = rearrange(weights[0], "(c y x) k -> c y x k", c=3, y=size // POOL)
    spread = pooled.repeat_interleave(POOL, dim=1).repeat_interleave(POOL, dim=2) / POOL**2
    _set(encoder.conv_in.conv, rearrange(spread, "c p q k -> k (c q p)"))
    for weight, block in zip(weights[1:], blocks, strict=False):
        _set(block.conv.conv, weight.mT)
    values = _run(patches, weights[:-2], blocks)
    # Far above the values, so that norm and SiLU act on a small range around it, in which they are nearly
    # linear.
    constant = _CONSTANT * float(values.square().mean().sqrt())
    last = blocks[-1].conv.conv
    assert last.bias is not None
    last.bias.fill_(constant)
    outputs = normed((values + constant)[..., None, None, None]).flatten(1)
    centre = outputs.mean(dim=0)
    gram = (outputs - centre).mT @ (outputs - centre)
    # Directions in which the outputs do not vary would make the matrix singular.
    gram.diagonal().add_(1e-6 * float(gram.trace()) / len(gram))
    raw = target / code.amplitude
    solution = torch.linalg.solve(gram, (outputs - centre).mT @ (raw - raw.mean(dim=0)))
    out = encoder.conv_out.conv
    assert out.bias is not None
    # The last channel is the log-variance, which stays the constant that it was set to.
    log_variance = out.weight[-1].clone(), out.bias[-1].clone()
    _set(out, solution.mT)
    out.bias[:-1] = raw.mean(dim=0) - centre @ solution
    out.weight[-1], out.bias[-1] = log_variance


def _set(conv: nn.Conv3d, weight: Tensor) -> None:
    """Set a convolution, causal in time, to zero except for the tap of the current position.

    That tap is the last one in time and the middle one in rows and columns. ``weight`` (outputs, inputs) has
    its values.
    """
    conv.weight.zero_()
    conv.weight[: len(weight), :, -1, 1, 1] = weight
    if conv.bias is not None:
        conv.bias.zero_()

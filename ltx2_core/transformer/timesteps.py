"""Timesteps grouped by value, so that modulation is evaluated once for each noise level.

Letters: B batch, N tokens, S segments of the tokens, G groups: tokens that share one timestep.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

_MAX_SEGMENTS = 16
"""Tokens whose timesteps change more often than this along the sequence are looked up one by one."""

Bounds = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Groups:
    """Groups of tokens that share a timestep: the ``timesteps`` (G,), and which token is in which group.

    Along the tokens a timestep usually changes a few times. ``segments`` are the S intervals [start, stop) of
    tokens in which it is constant in every sample, and ``index`` (S, B) is the number of the group of each
    segment and sample. If timesteps change often there are no segments, and ``index`` (B, N) is the number of
    each token's group. If ``index`` is None, every token is a group of its own, in order.
    """

    timesteps: Tensor
    index: Tensor | None
    segments: Bounds

    @classmethod
    def apart(cls, timesteps: Tensor) -> Groups:
        """Each of ``timesteps`` (B, N) as its own group: more to compute, but no search for equal values."""
        return cls(timesteps.flatten(), None, ((0, timesteps.shape[1]),))

    def times(self, factor: float) -> Groups:
        """The groups of the same tokens if each of their timesteps is multiplied by ``factor``."""
        return replace(self, timesteps=self.timesteps * factor)

    def of(self, tokens: Tensor) -> Groups:
        """The groups of those tokens whose numbers are in ``tokens`` (n,), which are on the CPU.

        The CPU waits for the device, as it does in :func:`group_timesteps`. Only groups that
        :func:`group_timesteps` has found can be divided.
        """
        assert self.index is not None
        if len(self.segments) == 1:
            return replace(self, segments=((0, len(tokens)),))
        index = self.index.cpu()
        if self.segments:
            lengths = torch.tensor([stop - start for start, stop in self.segments])
            index = index.T.repeat_interleave(lengths, dim=1)
        return _with_segments(self.timesteps, index[:, tokens])

    def at_most(self, limit: float) -> Groups:
        """The groups of the same tokens with timesteps of at most ``limit``."""
        return replace(self, timesteps=self.timesteps.clamp(max=limit))


def group_timesteps(timesteps: Tensor, tokens: int, device: torch.device) -> Groups:
    """Find the tokens that share a timestep; the result is on ``device``.

    ``timesteps`` are (B, N), N = ``tokens``, or (B, 1) where all tokens of a sample have the same. A
    conditioned clip has thousands of tokens but few noise levels, so the modulation is evaluated per level.
    In training on a GPU every token is a group: finding the levels would synchronise the CPU with the GPU in
    every step.
    """
    batch = len(timesteps)
    samples = torch.arange(batch, device=timesteps.device)
    if timesteps.shape[1] == 1:
        return Groups(timesteps[:, 0].to(device), samples[None].to(device), ((0, tokens),))
    if timesteps.is_cuda and torch.is_grad_enabled():
        return Groups.apart(timesteps)
    values, index = torch.unique(timesteps, return_inverse=True)
    # Each sample has groups of its own, since gates by the noise of the other stream are added to them.
    found = _with_segments(values.repeat(batch), index + samples[:, None] * len(values))
    assert found.index is not None
    return Groups(found.timesteps.to(device), found.index.to(device), found.segments)


def _with_segments(timesteps: Tensor, index: Tensor) -> Groups:
    """The groups of tokens of which ``index`` (B, N) has the numbers, where ``timesteps`` are."""
    changes = (index[:, 1:] != index[:, :-1]).any(dim=0).nonzero().flatten().tolist()
    starts = [0, *(change + 1 for change in changes)]
    segments: Bounds = ()
    if len(starts) <= _MAX_SEGMENTS:
        segments = tuple(zip(starts, (*starts[1:], index.shape[1]), strict=True))
        index = index[:, starts].T
    return Groups(timesteps, index.to(timesteps.device), segments)

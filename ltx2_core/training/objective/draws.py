"""The random numbers of a training step, in the order in which the official trainer draws them."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Draws(Protocol):
    """A source of random tensors; each call takes the next ones."""

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers of ``shape``."""
        ...

    def uniform(self, *shape: int) -> Tensor:
        """Numbers from [0, 1) in float32; without a ``shape`` a single one, with no axes."""
        ...


class GeneratorDraws:
    """Draws on the CPU, so that a run on a GPU has the same random numbers.

    ``generator`` is a CPU generator, ``device`` is where the tensors are moved.
    """

    def __init__(self, generator: torch.Generator, device: torch.device | str = "cpu") -> None:
        self.generator, self.device = generator, device

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers of ``shape``, drawn in ``dtype``."""
        return torch.randn(shape, generator=self.generator, dtype=dtype).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Numbers from [0, 1) in float32; without a ``shape`` a single one, with no axes."""
        return torch.rand(shape, generator=self.generator).to(self.device)

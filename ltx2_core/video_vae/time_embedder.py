"""The embedding of the noise level that a decoder of LTX-Video is conditioned on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..transformer.adaln import TimestepEmbedder, sinusoid
from .convolution import ConvOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class TimeEmbedder(nn.Module):
    """From a timestep to ``width`` values, by the same network as in the transformer."""

    def __init__(self, width: int, **options: Unpack[ConvOptions]) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedder(
            width, dtype=options["dtype"], device=options["device"], operations=options["operations"]
        )

    def forward(self, timestep: Tensor, like: Tensor) -> Tensor:
        """Timestep (1,) -> (1, width), in the dtype and on the device of ``like``."""
        # Embedded in float32 and then cast, as a timestep of the transformer is.
        embedding: Tensor = self.timestep_embedder(sinusoid(timestep.to(like.device)).to(like.dtype))
        return embedding

"""Random weights for tiny models, scaled so that every branch contributes and no activation saturates.

Each tensor has its own generator, seeded by the set's seed and the tensor's name. So its values do not depend
on other tensors, on their order, or on global state.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from .. import config as cfg
from ..audio.antialias import lowpass_taps
from ..audio.bandwidth import LogMel
from ..audio.layers import Layers

Fill = Callable[[tuple[int, ...], torch.Generator], Tensor]


def random_weights(network: nn.Module, seed: int, *, prefix: str = "") -> dict[str, Tensor]:
    """A random float32 state dict for ``network``, fixed by ``seed``; each name begins with ``prefix``.

    Only names and shapes of the network are used, so it may be on the ``meta`` device.
    """
    return {
        prefix + name: random_tensor(prefix + name, tuple(tensor.shape), seed)
        for name, tensor in network.state_dict().items()
    }


def random_tensor(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Draw the float32 tensor ``name`` of the random model set with this ``seed``.

    Its distribution depends on the name: the first entry of ``_RULES`` whose pattern matches decides.
    """
    # A hash of the name, so that a tensor does not change when others are added.
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    # A seed must fit into a signed 64-bit integer.
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    # The first rule that matches applies, so that the general one is last.
    return next(fill for pattern, fill in _RULES if pattern.search(name))(shape, generator)


def stored_transforms(config: cfg.BandwidthExtensionConfig, prefix: str) -> Mapping[str, Tensor]:
    """The Fourier basis and mel filters that a 2.3 vocoder stores; each name begins with ``prefix``.

    ``config`` is that of its bandwidth extension. They have their real values, because random ones would not
    compute a spectrum.
    """
    return {
        f"{prefix}{name}": tensor
        for name, tensor in LogMel(config, Layers(nn, None, None)).state_dict().items()
    }


def _normal(std: float, mean: float = 0.0) -> Fill:
    return lambda shape, generator: torch.randn(shape, generator=generator) * std + mean


def _scaled(gain: float) -> Fill:
    """Build a function that draws normal weights (outputs, inputs, ...).

    Their standard deviation is ``gain`` / sqrt(fan-in).
    """
    return lambda shape, generator: (
        torch.randn(shape, generator=generator) * (gain / math.sqrt(math.prod(shape[1:])))
    )


def _transposed(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw the weights (inputs, outputs, kernel) of a transposed convolution.

    The kernel of such layers is twice the stride, so each output sample sums two taps of every input channel.
    """
    return torch.randn(shape, generator=generator) / math.sqrt(2 * shape[0])


def _taps(shape: tuple[int, ...], _generator: torch.Generator) -> Tensor:
    return torch.tensor(lowpass_taps(), dtype=torch.float32).reshape(shape)


_RULES: tuple[tuple[re.Pattern[str], Fill], ...] = tuple(
    (re.compile(pattern), fill)
    for pattern, fill in (
        # Measured on the random encoders, so that normalised latents have a standard deviation near 1.
        (r"std-of-means$", _normal(0.04, mean=0.45)),
        (r"mean-of-means$", _normal(0.1)),
        (r"\.filter$", _taps),
        (r"\.act\.(alpha|beta)$", _normal(0.1)),
        (r"(^|[._])(q_norm|k_norm|norm\d?|initial_norm)\.weight$", _normal(0.1, mean=1.0)),
        # Gates and modulation must not be near zero, or half of the branches would have no effect.
        (r"scale_shift_table|learnable_registers", _normal(0.5)),
        (r"\.bias$", _normal(0.05)),
        (r"ups\.\d+\.weight$", _transposed),
        # Without small convolutions the vocoder's residual blocks sum to a waveform that clips.
        (r"resblocks\.\d+\.convs", _scaled(0.3)),
        (r"bwe_generator\.conv_post\.weight$", _scaled(0.03)),
        (r"vocoder\.vocoder\.conv_post\.weight$", _scaled(0.2)),
        (r"(^|[._])proj_out\.weight$", _scaled(0.6)),
        (r"(^|\.)vae\.decoder\.conv_out\.", _scaled(0.6)),
        (r"", _scaled(1.0)),
    )
)

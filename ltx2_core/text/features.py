"""From Gemma's hidden states to text features: normalise each state, project it, and sum over the states.

Letters: B prompts, T tokens, N valid tokens of all prompts, D hidden width, L hidden states, K feature width.

The checkpoint's projection is one matrix on all L states of a token, flattened with index d * L + l. Since
both normalisations act on one state at a time, each state is normalised and multiplied with its own columns
of the matrix as soon as Gemma has computed it, for valid tokens only. The states are never stacked in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import TextConfig
from ..types import LayerOptions, TextFeatures

# The value of the official implementation, for both normalisations.
EPS = 1e-6

Fetch = Callable[[Any, Tensor], tuple[Tensor, Tensor | None]]
"""A linear layer and the hidden states that it is for -> its weight and bias."""


class FeatureExtractor(nn.Module):
    """The text projection: normalises hidden states and projects them to features for video and audio.

    ``hidden_size`` is the width of the text encoder's hidden states, ``num_states`` their number per token.
    Generation 2.0 has one projection for both modalities, 2.3 and later have one for each.
    """

    def __init__(
        self,
        config: TextConfig,
        hidden_size: int,
        num_states: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        self.per_token_norm = config.per_token_norm
        self.hidden_size = hidden_size
        self.num_states = num_states
        flat = hidden_size * num_states
        options: LayerOptions = {"dtype": dtype, "device": device}
        if config.per_token_norm:
            self.video_aggregate_embed = operations.Linear(flat, config.video.dim, **options)
            self.audio_aggregate_embed = operations.Linear(flat, config.audio.dim, **options)
        else:
            self.aggregate_embed = operations.Linear(flat, config.video.dim, bias=False, **options)

    def accumulator(self, mask: Tensor, fetch: Fetch | None = None) -> FeatureAccumulator:
        """Create the object that sums the features of B prompts while their hidden states are computed.

        ``mask`` (B, T) is 1 on valid tokens and 0 on padding, for T tokens. ``fetch(projection, like)``
        returns the weight and the bias of a projection for hidden states ``like``; None takes its parameters.
        """
        return FeatureAccumulator(self, mask, fetch)

    def forward(self, hidden_states: Iterable[Tensor], mask: Tensor) -> TextFeatures:
        """Compute features in float32 from all L hidden states, each (B, T, D), passed in order.

        ``mask`` (B, T) is 1 on valid tokens of B prompts of T tokens; D is the width of the states.
        """
        accumulator = self.accumulator(mask)
        for index, hidden in enumerate(hidden_states):
            accumulator.add(index, hidden)
        return accumulator.result()

    def padded(self, hidden: Tensor, mask: Tensor) -> TextFeatures:
        """Compute features in float32 from stacked hidden states (B, T, L, D), for training.

        T tokens, L hidden states of width D for each. ``mask`` (B, T) is 1 on valid tokens. Padding tokens
        are computed and then zeroed. Unlike in ``forward``, no value of the mask is read on the host, so that
        a GPU is not synchronised.

        Raises:
            ValueError: the model is 2.0, whose normalisation over whole prompts needs their lengths.
        """
        if not self.per_token_norm:
            raise ValueError("states that are normalised prompt by prompt need forward(), not padded()")
        features = [
            F.linear(self.inputs(hidden, projection), projection.weight, projection.bias) * mask.unsqueeze(-1)
            for projection in self.projections
        ]
        return TextFeatures(features[0], features[-1], mask)

    def inputs(self, hidden: Tensor, projection: Any) -> Tensor:
        """What ``projection`` multiplies, in float32: stacked hidden states (..., L, D) -> (..., D L).

        L hidden states of width D for each token. Each state is normalised to a root mean square of 1, and
        scaled by the root of (width of the features / D). ``projection`` is one of :attr:`projections`.
        """
        scale = sqrt(projection.weight.shape[0] / self.hidden_size)
        return rearrange(rms_per_token(hidden.float()), "... l d -> ... (d l)") * scale

    @property
    def projections(self) -> tuple[Any, ...]:
        """The projections for video and audio; in 2.0 only one, which serves both."""
        if self.per_token_norm:
            return self.video_aggregate_embed, self.audio_aggregate_embed
        return (self.aggregate_embed,)


class FeatureAccumulator:
    """Sums the projected hidden states of a batch of prompts, in float32, as they are computed.

    ``extractor`` has the projection, ``mask`` (B, T) is 1 on valid tokens, ``fetch`` is that of
    :meth:`FeatureExtractor.accumulator`. Raises ValueError for a prompt without valid tokens.
    """

    def __init__(self, extractor: FeatureExtractor, mask: Tensor, fetch: Fetch | None = None) -> None:
        self.extractor = extractor
        self._fetch = fetch or _parameters
        self._fetched: list[tuple[Tensor, Tensor | None]] = []
        self.mask = mask
        self.lengths: list[int] = mask.sum(dim=1, dtype=torch.int64).tolist()
        # Computed once and not for every state, because each read of the mask synchronises with the GPU.
        self._valid = mask.bool().flatten().nonzero()[:, 0]
        self.added: set[int] = set()
        self.sums: list[Tensor] = []
        if min(self.lengths) < 1:
            raise ValueError("every prompt needs at least one valid token (BOS); the mask has a row of zeros")

    def add(self, layer: int, hidden: Tensor) -> None:
        """Add hidden state number ``layer``, from 0, in any order; values at padding are ignored.

        ``hidden`` is (B, T, D): B prompts, T tokens, D the width of hidden states.

        Raises:
            ValueError: there is no such state, it was added before, or its shape is not (B, T, D).
        """
        size, states = self.extractor.hidden_size, self.extractor.num_states
        if not 0 <= layer < states or layer in self.added:
            raise ValueError(f"hidden state {layer} is added twice or not in 0 ... {states - 1}")
        if hidden.shape != (*self.mask.shape, size):
            raise ValueError(
                f"hidden state {layer} has shape {tuple(hidden.shape)}, not {(*self.mask.shape, size)}"
            )
        self.added.add(layer)
        self._valid = self._valid.to(hidden.device)
        # In float32, because hidden states of Gemma reach values of thousands, whose squares bfloat16 holds
        # in 8 bits.
        valid = hidden.flatten(0, 1).index_select(0, self._valid).float()
        if not self._fetched:
            # Once for all states: a host may copy a projection to the GPU, and change it by LoRAs.
            self._fetched = [self._fetch(one, valid) for one in self.extractor.projections]
        z = rms_per_token(valid) if self.extractor.per_token_norm else range_per_prompt(valid, self.lengths)
        shares = [self._project(z, weight, layer) for weight, _ in self._fetched]
        self.sums = [a.add_(b) for a, b in zip(self.sums, shares, strict=True)] if self.sums else shares

    def result(self) -> TextFeatures:
        """The finished features, (B, T, K) for each modality, in float32, zero on padding tokens.

        B prompts of T tokens; K is the width of features.

        Raises:
            ValueError: not all hidden states have been added.
        """
        states = self.extractor.num_states
        if len(self.added) != states:
            raise ValueError(f"only {len(self.added)} of {states} hidden states were added")
        pairs = zip(self.sums, self._fetched, strict=True)
        features = [self._unpack(self._finish(total, bias)) for total, (_, bias) in pairs]
        return TextFeatures(features[0], features[-1], self.mask.to(features[0].device))

    def _project(self, z: Tensor, weight: Tensor, layer: int) -> Tensor:
        # Only the columns of this state are cast: a whole projection of 2.3 takes 3 GB in float32.
        columns = rearrange(weight, "k (d l) -> l k d", l=self.extractor.num_states)[layer]
        return F.linear(z, columns.to(device=z.device, dtype=z.dtype))

    def _finish(self, total: Tensor, bias: Tensor | None) -> Tensor:
        if not self.extractor.per_token_norm:
            return total
        # The factor belongs to the projection's input. Being constant, it can be applied to the sum.
        scale = sqrt(total.shape[-1] / self.extractor.hidden_size)
        total = total * scale
        return total if bias is None else total + bias.to(device=total.device, dtype=total.dtype)

    def _unpack(self, packed: Tensor) -> Tensor:
        features = packed.new_zeros(self.mask.numel(), packed.shape[-1])
        features.index_copy_(0, self._valid.to(packed.device), packed)
        return features.view(*self.mask.shape, -1)


def _parameters(projection: Any, _like: Tensor) -> tuple[Tensor, Tensor | None]:
    return projection.weight, projection.bias


def batched(features: Sequence[TextFeatures]) -> TextFeatures:
    """Join the features of B single prompts, each (1, T_b, K) without padding, to a batch (B, T, K).

    T is the largest number of tokens, K the width of features. Shorter prompts are padded with zeros on the
    left.
    """
    lengths = torch.tensor([one.mask.shape[1] for one in features])
    longest = int(lengths.max())
    video = _padded([one.video for one in features], longest)
    same = all(one.audio is one.video for one in features)
    # 2.0 has one set of features for both modalities.
    audio = video if same else _padded([one.audio for one in features], longest)
    mask = (torch.arange(longest) >= longest - lengths[:, None]).long()
    return TextFeatures(video, audio, mask.to(video.device))


def _padded(features: Sequence[Tensor], longest: int) -> Tensor:
    return torch.cat([F.pad(one, (0, 0, longest - one.shape[1], 0)) for one in features])


def rms_per_token(x: Tensor) -> Tensor:
    """Normalise tokens x (..., D) to a root mean square of 1 over D channels each (2.3 and later)."""
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + EPS)


def range_per_prompt(x: Tensor, lengths: list[int]) -> Tensor:
    """Normalise each prompt to mean 0 and range 8 over all its tokens and channels (2.0).

    x (N, D) holds the valid tokens of all prompts one after another, ``lengths`` their numbers of tokens.
    """

    def normalise(part: Tensor) -> Tensor:
        # The range and not the deviation, as 2.0 was trained.
        mean = part.sum() / (part.numel() + EPS)
        return 8 * (part - mean) / (part.max() - part.min() + EPS)

    return torch.cat([normalise(part) for part in torch.split(x, lengths)])

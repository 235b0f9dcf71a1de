"""Several texts in one clip: each token attends to the text of its time, or to its part of one text.

Letters: B batch, N tokens, S text tokens, K text width, H heads, D head width, P parts of the clip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .texts import KeysValues


class TextRun(NamedTuple):
    """Tokens that follow each other and attend to the same text, or to the same two texts.

    ``tokens`` is a slice of the stream's tokens, ``first`` the number of their text. In a fade ``second`` is
    the number of the other text, and ``share`` (n, 1) its share in the update of each token; else both are
    None. ``bias`` (1, 1, n, S) is added to the logits of attention to the first text; None adds nothing.
    """

    tokens: slice
    first: int
    second: int | None
    share: Tensor | None
    bias: Tensor | None = None


@dataclass(frozen=True, eq=False)
class PartBias:
    """How much each token of a stream attends to those text tokens that describe a part of the clip.

    ``parts`` are slices of the text tokens, one for each of P parts. ``levels`` (N, P), float32 on the CPU,
    are added to the logits of each token's attention to the text tokens of each part; other text tokens have
    no bias.
    """

    levels: Tensor
    parts: tuple[slice, ...]

    def of(self, chosen: slice | Tensor) -> PartBias:
        """The same for some of the tokens: a slice, or their numbers (n,)."""
        return replace(self, levels=self.levels[chosen])

    def rows(self, keys: int, like: Tensor) -> Tensor:
        """The bias (1, 1, N, S) of attention to a text of S = ``keys`` tokens, as ``like`` is."""
        levels = self.levels.to(like)
        bias = levels.new_zeros(len(levels), keys)
        for number, part in enumerate(self.parts):
            bias[:, part] = levels[:, number, None]
        return bias[None, None]


@dataclass(frozen=True, kw_only=True, eq=False)
class TimedTexts:
    """Which of several texts each token of a stream attends to.

    ``contexts`` are the texts, each (B, S, K); S may differ. ``first`` and ``second`` (N,), int64, are for
    each token the numbers of two texts, and ``share`` (N,), float32, is the share of the second one: 0 is the
    first text alone, and between 0 and 1 the results of attention to both are mixed linearly. These three are
    on the CPU, so that tokens are divided into runs without waiting for a GPU. ``bias`` is for one text that
    describes several parts of the clip; None is plain attention. Raises ValueError if they are not equally
    long, and for a bias with several texts.
    """

    contexts: tuple[Tensor, ...]
    first: Tensor
    second: Tensor
    share: Tensor
    bias: PartBias | None = None
    _cached: dict[object, object] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not len(self.first) == len(self.second) == len(self.share):
            raise ValueError(
                f"first, second and share must have one value a token; got {len(self.first)}, "
                f"{len(self.second)} and {len(self.share)}"
            )
        if self.bias is not None and (len(self.contexts) != 1 or len(self.bias.levels) != len(self.first)):
            raise ValueError(
                f"a bias needs one text and one row a token; got {len(self.contexts)} texts, and "
                f"{len(self.bias.levels)} rows for {len(self.first)} tokens"
            )

    def with_contexts(self, project: Callable[[Tensor], Tensor]) -> TimedTexts:
        """The same with ``project`` applied to each text."""
        return replace(self, contexts=tuple(map(project, self.contexts)))

    def of(self, tokens: slice | Tensor) -> TimedTexts:
        """The same for some of the tokens: a slice, or their numbers (n,)."""
        chosen = tokens if isinstance(tokens, slice) else tokens.cpu()
        return replace(
            self,
            first=self.first[chosen],
            second=self.second[chosen],
            share=self.share[chosen],
            bias=None if self.bias is None else self.bias.of(chosen),
        )

    def runs(self, like: Tensor) -> tuple[TextRun, ...]:
        """The tokens in runs of the same texts, in their order; shares are on the device of ``like``."""
        key = (like.dtype, like.device)
        if key not in self._cached:
            self._cached[key] = self._made_runs(like)
        found: tuple[TextRun, ...] = self._cached[key]  # type: ignore[assignment]
        return found

    def _made_runs(self, like: Tensor) -> tuple[TextRun, ...]:
        if self.bias is not None:
            bias = self.bias.rows(self.contexts[0].shape[1], like)
            return (TextRun(slice(0, len(self.first)), 0, None, None, bias),)
        mixed = self.share > 0
        # A second text without a share must not divide a run.
        pairs = torch.stack((self.first, torch.where(mixed, self.second, -1)), dim=1)
        kinds, counts = torch.unique_consecutive(pairs, dim=0, return_counts=True)
        made, start = [], 0
        for (first, second), count in zip(kinds.tolist(), counts.tolist(), strict=True):
            tokens = slice(start, start + count)
            start += count
            if second < 0:
                made.append(TextRun(tokens, first, None, None))
            else:
                made.append(TextRun(tokens, first, second, self.share[tokens, None].to(like)))
        return tuple(made)


def attend_by_time(
    attend: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor],
    queries: Tensor,
    texts: Sequence[KeysValues],
    runs: Sequence[TextRun],
) -> Tensor:
    """Attention of each run of queries (B, H, N, D) to its own text -> (B, H, N, D).

    ``texts`` are the keys and values of all texts, ``attend(q, k, v, bias)`` is plain attention. Only a text
    that describes several parts has a bias, so that for others it may be a flash kernel.
    """
    parts = []
    for tokens, first, second, share, bias in runs:
        own = queries[:, :, tokens]
        attended = attend(own, *texts[first], bias)
        if second is not None and share is not None:
            # lerp, so that two texts of equal keys and values give exactly what one gives.
            attended = torch.lerp(attended, attend(own, *texts[second], None), share.to(attended))
        parts.append(attended)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

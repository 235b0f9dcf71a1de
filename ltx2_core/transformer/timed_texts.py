"""Several texts in one clip: each token attends to the text of its time.

Letters: B batch, N tokens, S text tokens, K text width, H heads, D head width.
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
    None.
    """

    tokens: slice
    first: int
    second: int | None
    share: Tensor | None


@dataclass(frozen=True, kw_only=True, eq=False)
class TimedTexts:
    """Which of several texts each token of a stream attends to.

    ``contexts`` are the texts, each (B, S, K); S may differ. ``first`` and ``second`` (N,), int64, are for
    each token the numbers of two texts, and ``share`` (N,), float32, is the share of the second one: 0 is the
    first text alone, and between 0 and 1 the results of attention to both are mixed linearly. These three are
    on the CPU, so that tokens are divided into runs without waiting for a GPU. Raises ValueError if they are
    not equally long.
    """

    contexts: tuple[Tensor, ...]
    first: Tensor
    second: Tensor
    share: Tensor
    _cached: dict[object, object] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not len(self.first) == len(self.second) == len(self.share):
            raise ValueError(
                f"first, second and share must have one value a token; got {len(self.first)}, "
                f"{len(self.second)} and {len(self.share)}"
            )

    def with_contexts(self, project: Callable[[Tensor], Tensor]) -> TimedTexts:
        """The same with ``project`` applied to each text."""
        return replace(self, contexts=tuple(map(project, self.contexts)))

    def of(self, tokens: slice | Tensor) -> TimedTexts:
        """The same for some of the tokens: a slice, or their numbers (n,)."""
        chosen = tokens if isinstance(tokens, slice) else tokens.cpu()
        return replace(self, first=self.first[chosen], second=self.second[chosen], share=self.share[chosen])

    def runs(self, like: Tensor) -> tuple[TextRun, ...]:
        """The tokens in runs of the same texts, in their order; shares are on the device of ``like``."""
        key = (like.dtype, like.device)
        if key not in self._cached:
            self._cached[key] = self._made_runs(like)
        found: tuple[TextRun, ...] = self._cached[key]  # type: ignore[assignment]
        return found

    def _made_runs(self, like: Tensor) -> tuple[TextRun, ...]:
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
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    queries: Tensor,
    texts: Sequence[KeysValues],
    runs: Sequence[TextRun],
) -> Tensor:
    """Attention of each run of queries (B, H, N, D) to its own text -> (B, H, N, D).

    ``texts`` are the keys and values of all texts, ``attend(q, k, v)`` is plain attention: there is no bias,
    so that it may be a flash kernel.
    """
    parts = []
    for tokens, first, second, share in runs:
        own = queries[:, :, tokens]
        attended = attend(own, *texts[first])
        if second is not None and share is not None:
            # lerp, so that two texts of equal keys and values give exactly what one gives.
            attended = torch.lerp(attended, attend(own, *texts[second]), share.to(attended))
        parts.append(attended)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
